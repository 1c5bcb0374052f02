"""Convolution, projections, scan and gate of the Mamba block on GPUs, by Triton kernels, as one operator.

From the input projection `xz (B, L, 2 D)` to `(B, L, D)`, for one direction or the sum of both. Every kernel
computes the convolution and the step sizes from `xz` again, forwards and backwards, so that no other tensor
of the size of the sequence is written in the forward pass or kept for the backward pass; what lies between
convolution and scan, the rows of step size, B and C, has r + 2 N columns. The backward pass holds, beside its
result, the gradients of u and of the step sizes in float32. docs/scan.md counts the bytes.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm import launch
from mambamed.ssm.launch import LOG2E, UNIT, Operands, aligned, padded, padded_numbers, strided
from mambamed.ssm.scan import resolve_backend

log = logging.getLogger(__name__)

MOST_TAPS = 8
MOST_RANK = 128
MOST_STATES = 256  # with more, `launch.tiles` leaves fewer channels than tl.dot multiplies, 16


@functools.cache
def _say(reason: str) -> None:
    log.warning("Mamba block on the GPU in separate operations instead of fused kernels: %s", reason)


def serves(xz: Tensor, taps: int, rank: int, states: int) -> bool:
    """Whether the fused kernels can be used; logs the reason once if only the sizes do not permit it."""
    if not xz.numel() or resolve_backend("auto", xz.device.type, xz.dtype == torch.float64) != "triton":
        return False
    if taps > MOST_TAPS or rank > MOST_RANK or states > MOST_STATES:
        _say(
            f"{taps} taps, a step size of rank {rank} and {states} states; "
            f"at most {MOST_TAPS}, {MOST_RANK} and {MOST_STATES} are supported"
        )
        return False
    return True


class _Rows:
    """Columns of the projected rows: step size, B, C, each beginning at a multiple of `UNIT`."""

    def __init__(self, dt_proj: Tensor, A: Tensor):
        self.channels, self.N, self.r = A.shape[1], A.shape[2], dt_proj.shape[2]
        self.rank = 1 << (self.r - 1).bit_length()
        self.B = max(UNIT, self.rank)
        self.C = self.B + padded(self.N)
        self.count = self.C + padded(self.N)

    def weight(self, x_proj: Tensor, kind: torch.dtype) -> Tensor:
        """x_proj `(S, r + 2 N, D)` as `(S, D, P)`, its columns in their places."""
        weight = x_proj.new_zeros(x_proj.shape[0], padded(self.channels), self.count, dtype=kind)
        for first, part in zip((0, self.B, self.C), x_proj.split([self.r, self.N, self.N], 1), strict=True):
            weight[:, : self.channels, first : first + part.shape[1]] = part.transpose(1, 2)
        return weight

    def parts(self, rows: Tensor) -> list[Tensor]:
        """Step size, B and C of `(..., P)`."""
        sizes = ((0, self.r), (self.B, self.N), (self.C, self.N))
        return [rows[..., first : first + size] for first, size in sizes]

    def operands(self, xz, taps, tap_bias, dt_proj, dt_bias, A, D, rows, reverse) -> Operands:
        x, z = (aligned(t) for t in xz.split(self.channels, -1))
        dt_weight = padded_numbers(functional.pad(dt_proj.transpose(1, 2), (0, 0, 0, self.rank - self.r)))
        return Operands(
            x, rows[..., : self.rank], rows[..., self.B :][..., : self.N], rows[..., self.C :][..., : self.N],
            z,
            padded_numbers(A.float().transpose(1, 2) * LOG2E), padded_numbers(D), padded_numbers(dt_bias),
            reverse, True, padded_numbers(taps.transpose(1, 2)),
            None if tap_bias is None else padded_numbers(tap_bias), dt_weight,
        )  # fmt: skip


def _precision() -> str:
    """Of products in float32: torch's own setting."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def forward(xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, reverse, save):
    from mambamed.ssm import triton_inner as kernels

    columns = _Rows(dt_proj, A)
    weight = columns.weight(x_proj, xz.dtype)
    rows = _empty_rows(xz, dt_proj, A)
    o = columns.operands(xz, taps, tap_bias, dt_proj, dt_bias, A, D, rows, reverse)
    (batch, length, channels), sides = o.u.shape, A.shape[0]
    tiles = -(-length // kernels.TOKENS)
    with torch.cuda.device_of(xz):
        launch.launch(
            kernels.project, tiles * batch * -(-columns.count // kernels.COLUMNS),
            *strided(o.u), o.taps, o.tap_bias, weight, rows, length, channels, columns.count, tiles, batch,
            sides, int(reverse), WIDTH=o.width, TOKENS=kernels.TOKENS, BLOCK=kernels.BLOCK,
            COLUMNS=kernels.COLUMNS,
            PRECISION=_precision(),
        )  # fmt: skip
    out, kept = launch.run_forward(o, save, xz.dtype)
    out = out if channels == columns.channels else out[..., : columns.channels].contiguous()
    return (out, rows, kept) if kept is not None else (out, xz.new_empty(0), _nothing(xz))


def backward(grad, rows, kept, xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, reverse):
    from mambamed.ssm import triton_inner as kernels

    columns = _Rows(dt_proj, A)
    weight = columns.weight(x_proj, xz.dtype)
    o = columns.operands(xz, taps, tap_bias, dt_proj, dt_bias, A, D, rows, reverse)
    (batch, length, channels), sides = o.u.shape, A.shape[0]
    dxz = xz.new_empty(batch, length, 2 * channels)
    dx, dz = dxz.split(channels, -1)
    found = launch.run_backward(o, aligned(grad), kept, dz)
    tiles, runs = -(-length // kernels.TOKENS), -(-length // kernels.RUN)
    blocks, across = -(-channels // kernels.BLOCK), -(-columns.count // kernels.COLUMNS)
    rows_of_taps = 1 << o.width.bit_length()  # a power of two above the number of taps
    dweight = weight.new_empty(runs, batch, sides, channels, columns.count, dtype=torch.float32)
    dtaps = dweight.new_empty(runs, batch, sides, rows_of_taps, channels)
    inputs = (*strided(o.u), o.taps, o.tap_bias, weight)
    shape, options = (length, channels), {"WIDTH": o.width, "TOKENS": kernels.TOKENS, "BLOCK": kernels.BLOCK}
    products = {**options, "COLUMNS": kernels.COLUMNS, "PRECISION": _precision()}
    with torch.cuda.device_of(xz):
        launch.launch(
            kernels.projection_gradients, runs * batch * blocks * across,
            *inputs, found.rows, dweight, *shape, columns.count, runs, batch, sides, int(reverse), across,
            RUN=kernels.RUN, **products,
        )  # fmt: skip
        launch.launch(
            kernels.output_gradients, tiles * batch * blocks,
            *inputs, found.rows, found.du, *shape, columns.count, tiles, batch, sides, int(reverse),
            **products,
        )  # fmt: skip
        launch.launch(
            kernels.conv_gradients, runs * batch * blocks,
            *strided(o.u), o.taps, found.du, *strided(dx), dtaps, *shape, runs, batch, sides, int(reverse),
            ROWS=rows_of_taps, RUN=kernels.RUN, **options,
        )  # fmt: skip
    if channels != columns.channels:
        dxz = torch.cat([dx[..., : columns.channels], dz[..., : columns.channels]], -1)
    assert found.dweight is not None
    of_taps, of_weight = dtaps.sum((0, 1)), dweight.sum((0, 1))
    grads = (
        dxz, of_taps[:, : o.width].transpose(1, 2), of_taps[:, o.width],
        torch.cat(columns.parts(of_weight), -1).transpose(1, 2),
        found.dweight[:, : columns.r].transpose(1, 2), found.dbias, found.dA.transpose(1, 2), found.dD,
    )  # fmt: skip
    given = (xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D)
    return tuple(_shaped(grad, of, xz) for grad, of in zip(grads, given, strict=True))


def _shaped(grad: Tensor, of: Tensor | None, xz: Tensor) -> Tensor:
    """The gradient without padding, in the dtype of its parameter; empty without one."""
    if of is None:
        return xz.new_empty(0)
    for axis, size in enumerate(of.shape):
        grad = grad.narrow(axis, 0, size)
    return grad.to(of.dtype).contiguous()


def _empty_rows(xz: Tensor, dt_proj: Tensor, A: Tensor) -> Tensor:
    return xz.new_empty(A.shape[0], *xz.shape[:2], _Rows(dt_proj, A).count)


def _nothing(xz: Tensor) -> Tensor:
    return xz.new_empty(0, dtype=torch.float32)


_INPUTS = (
    "Tensor xz, Tensor taps, Tensor? tap_bias, Tensor x_proj, Tensor dt_proj, Tensor dt_bias, Tensor A, "
    "Tensor D, bool reverse"
)
_operator = functools.partial(torch.library.custom_op, mutates_args=())
_answers = f"({_INPUTS}, bool save) -> (Tensor, Tensor, Tensor)"
inner_op = _operator("mambamed::mamba_inner", forward, schema=_answers)
_grads = f"(Tensor grad, Tensor rows, Tensor kept, {_INPUTS}) -> ({', '.join(['Tensor'] * 8)})"
inner_backward_op = _operator("mambamed::mamba_inner_backward", backward, schema=_grads)


@inner_op.register_fake
def _(xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, reverse, save):
    batch, length, _ = xz.shape
    sides, channels, states = A.shape
    out = xz.new_empty(batch, length, channels)
    if not save:
        return out, xz.new_empty(0), _nothing(xz)
    kept = xz.new_empty((sides, *launch.kept_shape(batch, length, channels, states)), dtype=torch.float32)
    return out, _empty_rows(xz, dt_proj, A), kept


@inner_backward_op.register_fake
def _(grad, rows, kept, xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, reverse):
    given = (xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D)
    return tuple(xz.new_empty(0) if of is None else of.new_empty(of.shape) for of in given)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.reverse, save = inputs
    if not save:
        raise RuntimeError(
            "mambamed::mamba_inner was called with save=False although a gradient is asked for"
        )
    ctx.given = [t is not None for t in tensors]
    ctx.save_for_backward(*output[1:], *tensors)


def _autograd(ctx, grad, _grad_rows, _grad_kept):
    rows, kept, *tensors = ctx.saved_tensors
    grads = torch.ops.mambamed.mamba_inner_backward(grad, rows, kept, *tensors, ctx.reverse)
    return (*(g if there else None for g, there in zip(grads, ctx.given, strict=True)), None, None)


inner_op.register_autograd(_autograd, setup_context=_setup_context)


def fused_inner(xz: Tensor, parameters: tuple[Tensor | None, ...], reverse: bool) -> Tensor:
    """`(B, L, 2 D)` -> `(B, L, D)` in the dtype of xz, which is that of the two products.

    Args:
        parameters: taps `(S, D, W)`, tap_bias `(S, D)` or None, x_proj `(S, r + 2 N, D)`, dt_proj
            `(S, D, r)`, dt_bias `(S, D)`, A `(S, D, N)`, D `(S, D)`. S = 2: the sum of both directions,
            forwards first.
        reverse: of the only direction.
    """
    given = [t for t in (xz, *parameters) if t is not None]
    save = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    return torch.ops.mambamed.mamba_inner(xz, *parameters, reverse, save)[0]
