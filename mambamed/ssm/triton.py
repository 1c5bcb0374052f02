"""The scan on a GPU by Triton kernels: no build step, for any CUDA or ROCm device of torch.

Parallel over chunks of the sequence as well as over batch and channels (see `triton_tokens`), because medical
volumes give long and narrow sequences: L up to millions, D 64 to 512. `mamba_ssm` uses only batch and
channels.

With TRITON_INTERPRET=1 in the environment before the first scan, the kernels run on the CPU in Triton's
interpreter: correct but very slow, for tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

from torch import Tensor

from mambamed.ssm.launch import (
    LOG2E,
    Operands,
    aligned,
    kept_shape,
    padded,
    padded_numbers,
    run_backward,
    run_forward,
)

FLOAT64 = False


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable() -> str | None:
    """The reason why this backend cannot be used: no Triton, or no GPU."""
    import torch

    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'mambamed[triton]')"
    if not torch.cuda.is_available() and not interpreted():
        return "torch sees no CUDA or ROCm device"
    try:
        importlib.import_module("mambamed.ssm.triton_backward")
    except ImportError as error:
        return f"Triton does not load ({error})"
    return None


def saved_shape(
    batch: int, length: int, d_inner: int, d_state: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """`(1, B, S, N, D)`: the state before each of S stretches."""
    return (1, *kept_shape(batch, length, d_inner, d_state))


def _operands(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse) -> Operands:
    """The arguments of a scan in the kernels' form."""
    if u.device.type == "cpu" and not interpreted():
        raise ValueError("scan backend 'triton' got tensors on the CPU; move them to the GPU, or use 'cpu'")

    def rows(t: Tensor, full_rows: bool = True) -> Tensor:
        return aligned(t.transpose(1, 2), full_rows)

    A2 = padded_numbers(A.float().T * LOG2E)
    skip, bias = (None if t is None else padded_numbers(t[None]) for t in (D, delta_bias))
    return Operands(
        rows(u), rows(delta)[None], rows(B, False)[None], rows(C, False)[None],
        None if z is None else rows(z),
        A2[None], skip, bias, reverse, delta_softplus,
    )  # fmt: skip


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the interface."""
    operands = _operands(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    out, kept = run_forward(operands, save, u.dtype)
    return out[..., : u.shape[1]].transpose(1, 2), u.new_empty(0) if kept is None else kept


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the interface."""
    operands = _operands(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    channels, states = A.shape
    grad = aligned(grad_out.transpose(1, 2))
    dz = None if operands.z is None else operands.A2.new_empty(operands.z.shape)
    found = run_backward(operands, grad, saved, dz)
    dB, dC = found.rows[0, ..., :states], found.rows[0, ..., padded(states) :][..., :states]

    def turned(t: Tensor) -> Tensor:
        return t[..., :channels].transpose(1, 2)

    assert found.ddelta is not None
    return (
        turned(found.du[0]), turned(found.ddelta[0]), found.dA[0, :, :channels].T, dB.transpose(1, 2),
        dC.transpose(1, 2), None if D is None else found.dD[0, :channels], None if dz is None else turned(dz),
        None if delta_bias is None else found.dbias[0, :channels],
    )  # fmt: skip
