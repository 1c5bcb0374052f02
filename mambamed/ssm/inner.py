"""Convolution, projections, scan and gate of the Mamba block: fused kernels where there are some.

On GPUs these are `mambamed.ssm.fused`, with both directions at once. `InnerScan` is one training operation
on CPUs. As separate operations, each would allocate a gradient of the length of the sequence, and halves and
columns of them would be copied together. Here the gradients of u and z are written into that of their common
projection, those of the step size, B and C likewise, and what is cheap to compute is not stored: the
convolution and the step sizes are recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm import fused, kept_memory
from mambamed.ssm.conv import causal_conv
from mambamed.ssm.scan import selective_scan
from mambamed.ssm.streamed import Inner, kernels_serve, multiply, product_type


def inner_scan(xz: Tensor, sides: Sequence[tuple[Inner, bool]]) -> Tensor:
    """`(B, L, 2 D)` -> `(B, L, D)`: convolution, selective scan and gate, summed over `sides`.

    A side is the parameters of a direction, and whether it is reversed.
    """
    D, N = sides[0][0].A.shape
    (_, taps), rank = sides[0][0].taps.shape, sides[0][0].dt_proj.shape[1]
    if xz.device.type != "meta" and fused.serves(xz, taps, rank, N):
        if [reverse for _, reverse in sides] == [False, True]:
            return fused.fused_inner(xz, _stacked([inner for inner, _ in sides]), False)
        parts = [fused.fused_inner(xz, _stacked([inner]), reverse) for inner, reverse in sides]
    elif kernels_serve(xz, D, N):
        parts = [
            InnerScan.apply(
                xz, i.taps, i.tap_bias, i.x_proj, i.dt_proj, i.dt_bias, i.A, i.D, reverse, product_type(xz)
            )
            for i, reverse in sides
        ]
    else:
        parts = [_separately(xz, inner, reverse) for inner, reverse in sides]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _stacked(inners: Sequence[Inner]) -> tuple[Tensor | None, ...]:
    """The parameters of several directions, along a new first axis."""
    names = ("taps", "tap_bias", "x_proj", "dt_proj", "dt_bias", "A", "D")
    columns = [[getattr(inner, name) for inner in inners] for name in names]
    return tuple(None if column[0] is None else torch.stack(column) for column in columns)


def _separately(xz: Tensor, inner: Inner, reverse: bool) -> Tensor:
    """One direction as operations of torch and one scan."""
    rank, states = inner.dt_proj.shape[1], inner.A.shape[1]
    u, z = xz.transpose(1, 2).chunk(2, dim=1)  # (B, D, L) each, channel-last views
    u = causal_conv(u, inner.taps, inner.tap_bias, silu=True, reverse=reverse)
    projected = functional.linear(u.transpose(1, 2), inner.x_proj)  # (B, L, r + 2 N)
    step, B, C = projected.split([rank, states, states], dim=2)
    delta = functional.linear(step, inner.dt_proj).transpose(1, 2)
    B, C = B.transpose(1, 2), C.transpose(1, 2)
    D, dt_bias = inner.D.float(), inner.dt_bias.float()
    out = selective_scan(u, delta, inner.A, B, C, D, z, dt_bias, delta_softplus=True, reverse=reverse)
    return out.transpose(1, 2)


def _product(a: Tensor, b: Tensor, kind: torch.dtype) -> Tensor:
    """a b `(n, m)` in float32, from kept memory; multiplied in dtype `kind`."""
    return multiply(a, b.to(kind), kept_memory.empty(a.shape[0], b.shape[1]))


def _columns(tokens: Tensor, batch: int, first: int, end: int | None) -> Tensor:
    """`(B L, X)` -> its columns first ... end - 1 as `(B, ., L)`."""
    return tokens.view(batch, -1, tokens.shape[1])[..., first:end].transpose(1, 2)


class InnerScan(torch.autograd.Function):
    """`(B, L, 2 D)` -> `(B, L, D)` float32; the same arithmetic as `mambamed.ssm.mamba`.

    Arguments: xz, taps `(D, W)`, tap_bias or None, x_proj `(r + 2 N, D)`, dt_proj `(D, r)`, dt_bias `(D,)`,
    A `(D, N)`, D `(D,)`, reverse, and the dtype of the two products.
    """

    @staticmethod
    def forward(ctx, xz, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, reverse, kind):
        ctx.reverse, ctx.kind, ctx.given = reverse, kind, xz.dtype
        whole = xz.float().contiguous()
        batch, rank, states = xz.shape[0], dt_proj.shape[1], A.shape[1]
        u, rows = _convolved(whole, taps, tap_bias, reverse)
        projected = _product(rows, x_proj.T, kind)
        delta = _product(projected[:, :rank], dt_proj.T, kind)
        from mambamed.ssm.cpu import scan_forward

        out, kept = scan_forward(
            u, _columns(delta, batch, 0, delta.shape[1]), A,
            _columns(projected, batch, rank, rank + states), _columns(projected, batch, rank + states, None),
            D, whole.transpose(1, 2).chunk(2, 1)[1], dt_bias, True, reverse, True,
        )  # fmt: skip
        ctx.save_for_backward(whole, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, projected, kept)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx, *grads):
        from mambamed.ssm.cpu import scan_backward
        from mambamed.ssm.cpu_conv import conv_backward

        whole, taps, tap_bias, x_proj, dt_proj, dt_bias, A, D, projected, kept = ctx.saved_tensors
        batch, rank, states, kind = whole.shape[0], dt_proj.shape[1], A.shape[1], ctx.kind
        u, rows = _convolved(whole, taps, tap_bias, ctx.reverse)
        u_in, z = whole.transpose(1, 2).chunk(2, 1)
        delta = _product(projected[:, :rank], dt_proj.T, kind)
        dxz = kept_memory.empty(*whole.shape)
        du_in, dz = dxz.transpose(1, 2).chunk(2, 1)
        dprojected = kept_memory.empty(*projected.shape)
        dB = _columns(dprojected, batch, rank, rank + states)
        dC = _columns(dprojected, batch, rank + states, None)
        du, ddelta, dA, _, _, dD, _, ddt_bias = scan_backward(
            grads[0].transpose(1, 2), kept, u, _columns(delta, batch, 0, delta.shape[1]), A,
            _columns(projected, batch, rank, rank + states), _columns(projected, batch, rank + states, None),
            D, z, dt_bias, True, ctx.reverse, into=(dB, dC, dz),
        )  # fmt: skip
        ddelta_rows, du_rows = (t.transpose(1, 2).flatten(0, 1) for t in (ddelta, du))
        ddt_proj = _product(ddelta_rows.T, projected[:, :rank], kind)
        dprojected[:, :rank] = _product(ddelta_rows, dt_proj, kind)
        dx_proj = _product(dprojected.T, rows, kind)
        if kind == torch.float32:
            du_rows.addmm_(dprojected, x_proj)
        else:
            du_rows += torch.mm(dprojected.to(kind), x_proj.to(kind))
        _, dtaps, dtap_bias = conv_backward(du, u_in, taps, tap_bias, True, ctx.reverse, into=du_in)
        return (
            dxz.to(ctx.given), dtaps, None if tap_bias is None else dtap_bias, dx_proj, ddt_proj, ddt_bias,
            dA, dD, None, None,
        )  # fmt: skip


def _convolved(whole: Tensor, taps: Tensor, tap_bias: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """u after convolution and silu, as `(B, D, L)` and, sharing memory, as `(B L, D)`."""
    from mambamed.ssm.cpu_conv import conv_forward

    u = conv_forward(whole.transpose(1, 2).chunk(2, 1)[0], taps, tap_bias, True, reverse)
    return u, u.transpose(1, 2).flatten(0, 1)
