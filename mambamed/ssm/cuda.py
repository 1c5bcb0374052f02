"""The compiled CUDA kernels of `mamba_ssm`, if that package is installed.

It has no CPU path and is built from source against one torch version. Its kernels require sequences that are
contiguous in L and run forwards only: other layouts and `reverse` need copies.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

FLOAT64 = False


def _kernels() -> ModuleType:
    return importlib.import_module("selective_scan_cuda")


def unavailable() -> str | None:
    """The reason why this backend cannot be used: no CUDA device, or no built `mamba_ssm`."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        _kernels()
    except ImportError as error:
        return f"the compiled kernels of mamba_ssm are not installed ({error})"
    return None


def saved_shape(
    batch: int, length: int, d_inner: int, d_state: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """Nothing: the backward pass runs the forward kernel again."""
    return (0,)


def _arguments(u, delta, A, B, C, D, z, delta_bias, reverse):
    """In the kernels' form: one dtype, contiguous in L, B and C with a group axis."""

    def sequence(t: Tensor) -> Tensor:
        t = t.to(u.dtype)
        return (t.flip(2) if reverse else t).contiguous()

    def parameter(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.float().contiguous()

    return (
        sequence(u), sequence(delta), A.float().contiguous(), sequence(B)[:, None], sequence(C)[:, None],
        parameter(D), None if z is None else sequence(z), parameter(delta_bias),
    )  # fmt: skip


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the interface."""
    arguments = _arguments(u, delta, A, B, C, D, z, delta_bias, reverse)
    out, _, *gated = _kernels().fwd(*arguments, delta_softplus)
    out = gated[0] if z is not None else out
    return out.flip(2) if reverse else out, u.new_empty(0)


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the interface."""
    kernels = _kernels()
    arguments = _arguments(u, delta, A, B, C, D, z, delta_bias, reverse)
    grad = grad_out.to(u.dtype)
    grad = (grad.flip(2) if reverse else grad).contiguous()
    out, states, *_ = kernels.fwd(*arguments, delta_softplus)
    du, ddelta, dA, dB, dC, dD, dbias, *dz = kernels.bwd(
        *arguments, grad, states, None if z is None else out, None, delta_softplus, False
    )
    turned = [du, ddelta, dB.squeeze(1), dC.squeeze(1), dz[0] if z is not None else None]
    if reverse:
        turned = [None if t is None else t.flip(2) for t in turned]
    du, ddelta, dB, dC, dz_turned = turned
    return du, ddelta, dA, dB, dC, None if D is None else dD, dz_turned, None if delta_bias is None else dbias
