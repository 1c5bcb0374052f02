"""The Triton kernels are the definition: on a GPU at any size, else in Triton's interpreter at tiny ones.

    pip install -e ".[triton]"
    TRITON_INTERPRET=1 python -m pytest -m "slow or not slow" tests/ssm/test_triton_kernels.py  # no GPU
    python -m pytest -m "slow or not slow" tests/ssm/test_triton_kernels.py  # a GPU

Without a GPU and without that variable they are skipped; `test_triton.py` runs one of them in a process that
has it set.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mambamed.ssm import launch, scan, selective_scan, triton
from mambamed.ssm.reference import selective_scan_loop
from tests.ssm.scan_inputs import NAMES, relative_error, scan_inputs

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA or ROCm device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _serves() -> None:
    if reason := scan.why_unavailable("triton"):
        pytest.skip(f"{reason}; TRITON_INTERPRET=1 interprets the kernels")


@pytest.fixture
def small(monkeypatch) -> None:
    """Sixteen channels a program, chunks of eight tokens, carried by four: tiny scans cross borders."""
    if triton.interpreted():
        from mambamed.ssm import triton_carry

        monkeypatch.setattr(launch, "CHANNELS", 16)
        monkeypatch.setattr(launch, "SHORTEST_CHUNK", 8)
        monkeypatch.setattr(triton_carry, "CHUNKS", 4)


def with_gradients(inputs, delta_softplus, reverse, scan_of):
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    out = scan_of(*leaves, delta_softplus, reverse)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(out, [t for t in leaves if t is not None], grad.to(out))
    return out.detach(), grads


def by_triton(*arguments):
    return selective_scan(*arguments, backend="triton")


def by_chunked(*arguments):
    return selective_scan(*arguments, backend="chunked")


def assert_agrees(inputs, delta_softplus=True, reverse=False, wanted_from=selective_scan_loop) -> None:
    """Against `wanted_from` in float64: the loop of the definition, or for long scans what agrees with it."""
    exact = [None if t is None else t.double() for t in inputs]
    wanted, wanted_grads = with_gradients(exact, delta_softplus, reverse, wanted_from)
    there = [None if t is None else t.to(DEVICE) for t in inputs]
    out, grads = with_gradients(there, delta_softplus, reverse, by_triton)
    assert out.dtype == inputs[0].dtype
    assert out.transpose(1, 2).is_contiguous()
    assert relative_error(out.cpu(), wanted) < 1e-5
    names = [name for name, t in zip(NAMES, inputs, strict=True) if t is not None]
    errors = {n: relative_error(g.cpu(), w) for n, g, w in zip(names, grads, wanted_grads, strict=True)}
    assert all(error < 1e-4 for error in errors.values()), errors


def test_many_states_are_divided_among_fewer_channels() -> None:
    """The backward kernels process 16 channels per program: here two blocks, the second incomplete."""
    assert launch.tiles(256, backward=True)["BLOCK"] == 16
    assert_agrees(scan_inputs(1, 20, 40, 256))


@pytest.mark.parametrize(
    ("batch", "channels", "length", "states", "extras", "reverse"),
    [(1, 18, 45, 4, True, True), (2, 3, 1, 8, False, False), (1, 3, 10, 5, False, True)],
)
@pytest.mark.usefixtures("small")
def test_kernels_agree_with_the_definition(batch, channels, length, states, extras, reverse) -> None:
    assert_agrees(scan_inputs(batch, channels, length, states, extras=extras), True, reverse)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(
    ("batch", "channels", "length", "states"), [(3, 5, 7, 8), (1, 4, 64, 64), (2, 9, 40, 16), (1, 1, 200, 1)]
)
@pytest.mark.usefixtures("small")
def test_kernels_agree_in_every_combination(batch, channels, length, states, extras, reverse) -> None:
    assert_agrees(scan_inputs(batch, channels, length, states, extras=extras), True, reverse)


@pytest.mark.parametrize(("length", "reverse"), [(32, True), (37, False)])
@pytest.mark.usefixtures("small")
def test_stretches_of_a_chunk_join_without_a_seam(monkeypatch, length, reverse) -> None:
    """Chunks of 16 tokens in stretches of 8, the last of which may be short."""
    monkeypatch.setattr(launch, "SHORTEST_CHUNK", 16)
    monkeypatch.setattr(launch, "STRETCH", 8)
    assert_agrees(scan_inputs(1, 3, length, 4), True, reverse)


@pytest.mark.slow
@given(
    batch=st.integers(1, 2), channels=st.integers(1, 9), length=st.integers(1, 30), states=st.integers(1, 20),
    extras=st.booleans(), softplus=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("small")
def test_kernels_agree_for_any_shape(
    batch, channels, length, states, extras, softplus, reverse, seed
) -> None:
    inputs = scan_inputs(batch, channels, length, states, extras=extras, seed=seed)
    if not softplus:
        inputs[1], inputs[7] = inputs[1].abs() * 0.1, None  # steps are positive
    assert_agrees(inputs, softplus, reverse)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_channel_first_and_sliced_inputs_give_the_same() -> None:
    inputs = [t.to(DEVICE) for t in scan_inputs(1, 5, 11, 8)]
    wanted = by_triton(*inputs, True)
    torch.testing.assert_close(by_triton(*[t.contiguous() for t in inputs], True), wanted)
    wide = torch.cat([inputs[0], inputs[6], inputs[3]], 1).transpose(1, 2).contiguous().transpose(1, 2)
    sliced = [wide[:, :5], *inputs[1:3], wide[:, 10:], *inputs[4:6], wide[:, 5:10], inputs[7]]
    torch.testing.assert_close(by_triton(*sliced, True), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("small")
def test_large_steps_and_half_types_give_finite_numbers(dtype) -> None:
    inputs = [t.to(DEVICE) for t in scan_inputs(1, 4, 20, 8, dtype=dtype)]
    inputs[1] = inputs[1] * 100  # exp(dt A) from 1 down to e^-1000
    inputs[2] = inputs[2].float() * 10
    out, grads = with_gradients(inputs, True, False, by_triton)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert all(g.float().isfinite().all() for g in grads)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_second_run_gives_the_same_bits() -> None:
    inputs = [t.to(DEVICE) for t in scan_inputs(1, 6, 12, 4)]
    first, second = (with_gradients(inputs, True, False, by_triton) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_operator_passes_opcheck() -> None:
    inputs = [t.to(DEVICE).requires_grad_() for t in scan_inputs(1, 3, 9, 2)]
    torch.library.opcheck(torch.ops.mambamed.selective_scan.default, (*inputs, True, False, True, "triton"))


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("states", [8, 16, 64])
@pytest.mark.parametrize(
    ("batch", "channels", "length"), [(1, 64, 1), (3, 40, 7), (2, 96, 64), (3, 33, 1000), (1, 64, 4097)]
)
def test_kernels_agree_on_a_device(batch, channels, length, states, extras, reverse) -> None:
    inputs = scan_inputs(batch, channels, length, states, extras=extras)
    assert_agrees(inputs, True, reverse, wanted_from=by_chunked)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("states", [8, 16, 64])
def test_kernels_agree_over_262144_tokens_on_a_device(states) -> None:
    assert_agrees(scan_inputs(1, 4, 262144, states), wanted_from=by_chunked)


@on_gpu
@pytest.mark.gpu
def test_indices_beyond_32_bits_are_reached() -> None:
    """L D = 2.1e9 + 64: behind tokens that are all 0, the last ones are a short scan's."""
    length, channels = 2**25 + 1, 64
    tail = scan_inputs(1, channels, 512, 2, extras=False)
    u, delta, B, C = (
        torch.zeros(1, length, t.shape[1], dtype=torch.float16, device="cuda").transpose(1, 2)
        for t in (tail[0], tail[1], tail[3], tail[4])
    )
    for whole, part in ((u, tail[0]), (delta, tail[1]), (B, tail[3]), (C, tail[4])):
        whole[:, :, -512:] = part.half()
    out = by_triton(u, delta, tail[2].cuda(), B, C, None, None, None, True)[:, :, -512:].cpu()
    wanted = selective_scan_loop(
        *[t.half().double() if i != 2 else t.double() for i, t in enumerate(tail[:5])], delta_softplus=True
    )
    assert relative_error(out, wanted) < 2**-10
