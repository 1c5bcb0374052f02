"""The fused step of training, against the same operations done one by one by torch."""

import pytest
import torch

from mambamed.ssm import Mamba, scan, set_backend
from tests.ssm.scan_inputs import relative_error

if reason := scan.why_unavailable("cpu"):
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("batch", "length", "conv_bias"), [(1, 2, True), (2, 65, False), (3, 130, True)])
def test_all_gradients_are_those_of_the_separate_operations(batch, length, conv_bias, reverse) -> None:
    torch.manual_seed(0)
    block, x = Mamba(24, conv_bias=conv_bias), torch.randn(batch, length, 24, requires_grad=True)
    leaves, grad = [x, *block.parameters()], torch.randn(batch, length, 24)
    ours = block(x, reverse)
    found = torch.autograd.grad(ours, leaves, grad)
    set_backend("chunked")
    try:
        wanted = block(x, reverse)
        gradients = torch.autograd.grad(wanted, leaves, grad)
    finally:
        set_backend("auto")
    assert relative_error(ours, wanted) < 1e-5
    for g, w in zip(found, gradients, strict=True):
        assert relative_error(g, w) < 1e-4


def test_gradients_of_parameters_alone_are_given() -> None:
    torch.manual_seed(0)
    block, x = Mamba(16), torch.randn(1, 20, 16)
    block(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_a_checkpointed_block_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    block, x = Mamba(16), torch.randn(1, 40, 16, requires_grad=True)
    wanted = torch.autograd.grad(block(x).sum(), x)[0]
    again = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), x)[0]
    torch.testing.assert_close(again, wanted)
