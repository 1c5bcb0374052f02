"""The backend of `mamba_ssm`: without it, or without a device, it says so."""

import sys
import types

import pytest
import torch

from mambamed.ssm import cuda


def test_without_a_device_the_reason_is_the_device(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.unavailable() == "torch sees no CUDA device"


def test_without_the_package_the_reason_is_the_package(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert "mamba_ssm are not installed" in cuda.unavailable()


@pytest.mark.parametrize("reverse", [False, True])
def test_the_kernels_get_what_mamba_ssm_gives_them(monkeypatch, reverse) -> None:
    """Argument order and shapes as in mamba_ssm.ops.selective_scan_interface.SelectiveScanFn."""
    seen = {}

    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        seen["fwd"] = (u, B, C)
        assert all(t.is_contiguous() for t in (u, delta, A, B, C, z))
        return (u * 0, torch.zeros(1), u * 2)

    def bwd(u, delta, A, B, C, D, z, bias, grad, states, out, dz, softplus, recompute):
        assert grad.is_contiguous()
        return (u, delta, A, B, C, D, bias, z)

    monkeypatch.setitem(sys.modules, "selective_scan_cuda", types.SimpleNamespace(fwd=fwd, bwd=bwd))
    u, B = torch.randn(2, 7, 3).transpose(1, 2), torch.randn(2, 7, 4).transpose(1, 2)
    arguments = (u, u + 1, torch.randn(3, 4), B, B + 1, torch.randn(3), u + 2, torch.randn(3), True, reverse)
    out, _ = cuda.scan_forward(*arguments, True)
    torch.testing.assert_close(out, u * 2)
    assert seen["fwd"][1].shape == (2, 1, 4, 7)
    torch.testing.assert_close(seen["fwd"][0], u.flip(2) if reverse else u)
    gradients = cuda.scan_backward(torch.randn_like(u), None, *arguments)
    for gradient, of in zip(gradients, arguments[:8], strict=True):
        torch.testing.assert_close(gradient, of)
