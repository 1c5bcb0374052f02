"""The causal convolution, against torch's own."""

import pytest
import torch

from mambamed.ssm import causal_conv, set_backend
from tests.ssm.scan_inputs import relative_error


def torch_conv(x, weight, bias, silu, reverse):
    """nn.Conv1d(D, D, W, groups=D, padding=W-1), first L outputs: what mamba_ssm.Mamba does."""
    x = x.flip(2) if reverse else x
    padding = weight.shape[1] - 1
    out = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=padding, groups=x.shape[1])[
        ..., : x.shape[2]
    ]
    out = torch.nn.functional.silu(out) if silu else out
    return out.flip(2) if reverse else out


@pytest.mark.parametrize("backend", ["auto", "chunked"])
@pytest.mark.parametrize(
    ("batch", "channels", "length", "width"),
    [(1, 16, 1, 4), (2, 5, 9, 4), (1, 48, 130, 3), (3, 8, 2, 4), (2, 64, 600, 4)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_convolution_and_its_gradients_are_torchs(
    backend, batch, channels, length, width, reverse
) -> None:
    torch.manual_seed(0)
    set_backend(backend)
    try:
        for silu, bias in ((True, True), (False, False)):
            x = torch.randn(batch, length, channels).transpose(1, 2).requires_grad_()
            weight = torch.randn(channels, width, requires_grad=True)
            leaves = [x, weight]
            if bias:
                leaves.append(torch.randn(channels, requires_grad=True))
            ours = causal_conv(*leaves, silu=silu, reverse=reverse)
            doubles = [t.detach().double().requires_grad_() for t in leaves]
            wanted = torch_conv(*doubles, *([] if bias else [None]), silu, reverse)
            grad = torch.randn_like(wanted)
            assert ours.transpose(1, 2).is_contiguous()
            assert relative_error(ours, wanted) < 1e-6
            gradients = torch.autograd.grad(ours, leaves, grad.float())
            for g, w in zip(gradients, torch.autograd.grad(wanted, doubles, grad), strict=True):
                assert relative_error(g, w) < 1e-5
    finally:
        set_backend("auto")


def test_float64_stays_float64() -> None:
    x, weight = torch.randn(1, 3, 8).double(), torch.randn(3, 4).double()
    assert relative_error(causal_conv(x, weight), torch_conv(x, weight, None, False, False)) < 1e-14


def test_bfloat16_is_convolved_in_float32() -> None:
    x, weight = torch.randn(1, 16, 40).bfloat16(), torch.randn(16, 4).bfloat16()
    out = causal_conv(x, weight)
    assert out.dtype == torch.float32
    assert relative_error(out, torch_conv(x.double(), weight.double(), None, False, False)) < 1e-6


def test_the_operator_passes_opcheck() -> None:
    x = torch.randn(2, 20, 7).transpose(1, 2).requires_grad_()
    arguments = (x, torch.randn(7, 4, requires_grad=True), torch.randn(7, requires_grad=True), True, False)
    torch.library.opcheck(torch.ops.mambamed.causal_conv.default, arguments)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3, 8\) and \(4, 4\)"):
        causal_conv(torch.zeros(1, 3, 8), torch.zeros(4, 4))
