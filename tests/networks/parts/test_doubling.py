"""Upsampling by 2 and its own gradient, against torch's interpolation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mambamed.networks.parts import doubling
from mambamed.networks.parts.doubling import doubled
from tests.networks.small_networks import small

SHAPES = [(2, 3, 4, 5, 6), (1, 2, 1, 3, 2), (1, 1, 1, 1, 1)]
AXES = [(2, 3, 4), (3, 4), (2,)]


def interpolated(x, axes):
    scale = [2 if axis in axes else 1 for axis in (2, 3, 4)]
    return functional.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axes", AXES)
def test_the_gradient_is_that_of_torchs_interpolation(shape, axes):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ours, theirs = doubling._Doubled.apply(x, axes), interpolated(x, axes)
    assert torch.equal(ours, theirs) and torch.equal(doubled(x, axes), theirs)
    grad = torch.randn_like(ours)
    (own,), (expected,) = (torch.autograd.grad(out, x, grad) for out in (ours, theirs))
    torch.testing.assert_close(own, expected, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(lambda t: doubling._Doubled.apply(t, axes), x)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_gradient_is_right_to_the_rounding_of_its_type(kind, tolerance):
    x = torch.randn(1, 4, 8, 8, 8, dtype=kind).to(memory_format=torch.channels_last_3d).requires_grad_()
    out = doubling._Doubled.apply(x, (2, 3, 4))
    grad = torch.randn_like(out)
    (own,) = torch.autograd.grad(out, x, grad)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(interpolated(exact, (2, 3, 4)), exact, grad.double())
    assert own.dtype == kind
    assert (own.double() - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("name", ["nnmamba", "cotr", "unimiss", "vitpose"])
def test_a_network_on_cuda_needs_no_gradient_of_torchs_trilinear_interpolation(name, monkeypatch):
    """torch has no deterministic form of it there. The gradients equal the CPU's form up to rounding."""

    def gradients() -> tuple[list[torch.Tensor], set[str]]:
        network, x = (
            small(name).eval(),
            torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(1)),
        )
        with torch.autograd.profiler.profile() as watched:
            out = network(x)
            (out[0] if isinstance(out, list) else out).square().mean().backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        return grads, {event.name for event in watched.function_events}

    expected, used = gradients()
    assert "aten::upsample_trilinear3d_backward" in used
    monkeypatch.setattr(doubling, "_sums_atomically", lambda device: True)
    torch.use_deterministic_algorithms(True)
    try:
        own, used = gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert "aten::upsample_trilinear3d" in used and "aten::upsample_trilinear3d_backward" not in used
    largest = max(float(grad.abs().max()) for grad in expected)
    for a, b in zip(own, expected, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * largest


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch.compile
def test_it_compiles_as_one_graph(monkeypatch):
    monkeypatch.setattr(doubling, "_sums_atomically", lambda device: True)
    x = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    compiled = torch.compile(lambda t: doubled(t * 2), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).square().sum(), x)[0],
        torch.autograd.grad(interpolated(x * 2, (2, 3, 4)).square().sum(), x)[0],
    )
