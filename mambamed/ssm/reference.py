"""The selective scan of the paper as a loop over the sequence. This file is the definition.

With `u, delta, z` of shape `(B, D, L)`, `A` of `(D, N)` and `B, C` of `(B, N, L)`, for every batch entry and
channel d, and l = 0 ... L-1 (L-1 ... 0 with `reverse`):

    dt_l = softplus(delta_l + delta_bias_d)            (without the softplus if not `delta_softplus`)
    h_l  = exp(dt_l A_d) h_{l-1} + dt_l B_l u_l        (N numbers; h before the first token is 0)
    y_l  = <C_l, h_l> + D_d u_l
    out_l = y_l silu(z_l)                              (y_l without `z`)

Source: Gu & Dao 2023 (Mamba), Algorithm 2, with the zero-order hold of A and its Euler step for B, as in the
authors' code. Everything is computed in float32, or in float64 if `u` is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def selective_scan_loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The definition above, step by step, with torch's autograd.

    For verification only: it is slow, and torch stores O(L D N) numbers for the backward pass.
    """
    work = torch.promote_types(torch.float32, u.dtype)
    uf, dt, Af, Bf, Cf = (t.to(work) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias.to(work)[:, None]
    if delta_softplus:
        dt = functional.softplus(dt)
    # unbind once: indexing inside the loop makes the backward pass quadratic in L
    steps = list(zip(uf.unbind(2), dt.unbind(2), Bf.unbind(2), Cf.unbind(2), strict=True))
    h = uf.new_zeros(uf.shape[0], uf.shape[1], A.shape[1])  # (B, D, N)
    outputs = []
    for u_l, dt_l, B_l, C_l in reversed(steps) if reverse else steps:
        h = torch.exp(dt_l[:, :, None] * Af) * h + (dt_l * u_l)[:, :, None] * B_l[:, None, :]
        outputs.append((h * C_l[:, None, :]).sum(2))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=2)  # (B, D, L)
    if D is not None:
        y = y + D.to(work)[:, None] * uf
    if z is not None:
        y = y * functional.silu(z.to(work))
    return y.to(u.dtype)


def saved_shape(
    batch: int, length: int, d_inner: int, d_state: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """Only the inputs are kept for the backward pass."""
    return (0,)


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """`selective_scan_loop` with the backend interface of `mambamed.ssm.scan`."""
    out = selective_scan_loop(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    return out, u.new_empty(0)


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """The chain rule, run backwards through the loop; stores all L states.

    With g_l the gradient of h_l: g_l = dy_l C_l + exp(dt_{l+1} A) g_{l+1}.
    """
    work = torch.promote_types(torch.float32, u.dtype)
    uf, Af, Bf, Cf, raw = (t.to(work) for t in (u, A, B, C, delta))
    if delta_bias is not None:
        raw = raw + delta_bias.to(work)[:, None]
    dt = functional.softplus(raw) if delta_softplus else raw
    positions = range(u.shape[2] - 1, -1, -1) if reverse else range(u.shape[2])
    h = uf.new_zeros(uf.shape[0], uf.shape[1], A.shape[1])
    before, y = [], torch.zeros_like(uf)
    for i in positions:
        before.append(h)
        entering = (dt[:, :, i] * uf[:, :, i])[:, :, None] * Bf[:, None, :, i]
        h = torch.exp(dt[:, :, i, None] * Af) * h + entering
        y[:, :, i] = (h * Cf[:, None, :, i]).sum(2)

    dy = grad_out.to(work)
    dz = dD = ddelta_bias = None
    if z is not None:
        zf = z.to(work)
        gate = torch.sigmoid(zf)
        skip = 0 if D is None else D.to(work)[:, None] * uf
        dz = dy * (y + skip) * gate * (1 + zf * (1 - gate))
        dy = dy * zf * gate
    du, ddt = torch.zeros_like(uf), torch.zeros_like(uf)
    dA, dB, dC = torch.zeros_like(Af), torch.zeros_like(Bf), torch.zeros_like(Cf)
    if D is not None:
        du += dy * D.to(work)[:, None]
        dD = (dy * uf).sum((0, 2))
    after = torch.zeros_like(h)  # exp(dt_{l+1} A) g_{l+1}
    for i, h_before in zip(reversed(positions), reversed(before), strict=True):
        decay = torch.exp(dt[:, :, i, None] * Af)
        pushed = Bf[:, None, :, i]
        h = decay * h_before + (dt[:, :, i] * uf[:, :, i])[:, :, None] * pushed
        g = dy[:, :, i, None] * Cf[:, None, :, i] + after
        dC[:, :, i] = (dy[:, :, i, None] * h).sum(1)
        dB[:, :, i] = (g * (dt[:, :, i] * uf[:, :, i])[:, :, None]).sum(1)
        du[:, :, i] += dt[:, :, i] * (g * pushed).sum(2)
        after = decay * g
        ddt[:, :, i] = (g * pushed).sum(2) * uf[:, :, i] + (after * h_before * Af).sum(2)
        dA += (after * h_before * dt[:, :, i, None]).sum(0)
    ddelta = ddt * torch.sigmoid(raw) if delta_softplus else ddt
    if delta_bias is not None:
        ddelta_bias = ddelta.sum((0, 2))
    return du, ddelta, dA, dB, dC, dD, dz, ddelta_bias
