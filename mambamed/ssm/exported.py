"""The operators of this package in plain torch, for programs that run without it.

`torch.export` keeps the selective scan and the causal convolution as operators of mambamed. `DECOMPOSITIONS`
replaces them by operators of torch, among them `scan`, its loop over the first axis. In ONNX that is `Scan`.

A step of the loop covers several tokens, unrolled: decays and pushes of all its tokens are computed at once,
which leaves a multiplication and an addition per token. Compared on one thread in onnxruntime 1.32: one token
per step took 1.2 to 2.3 times as long up to 4096 states per token, and 0.6 times with 8192; all chunks of a
sequence at once, corrected by the state before each one, took 0.9 to 1.4 times as long. Compare with
benchmarks/onnx_scans.py, whose form of the latter took 3 times as long for 512 tokens of 512 channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm.conv import shifted_sums

_TOKENS = 8  # of one step
_MANY_STATES = 4096  # of one token; with more, a step covers a single token


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operator of mambamed -> the same in plain torch, for `ExportedProgram.run_decompositions`."""
    return {
        torch.ops.mambamed.selective_scan.default: _selective_scan,
        torch.ops.mambamed.causal_conv.default: shifted_sums,
    }


def tokens_per_step(length: int, states: int) -> int:
    """Tokens of a step of the loop, for a sequence with this many states per token."""
    return 1 if states > _MANY_STATES else min(_TOKENS, length)


def _selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
    """The operator `mambamed::selective_scan` for prediction (`save` is False)."""
    work = torch.promote_types(torch.float32, u.dtype)
    tokens = [t.to(work).permute(2, 0, 1) for t in (u, delta, B, C)]  # (L, B, .)
    x, dt, Bs, Cs = (t.flip(0) for t in tokens) if reverse else tokens
    if delta_bias is not None:
        dt = dt + delta_bias.to(work)
    if delta_softplus:
        dt = functional.softplus(dt)
    y = _states_read(dt, dt * x, Bs, Cs, A.to(work).T.contiguous())
    if D is not None:
        y = y + x * D.to(work)
    y = (y.flip(0) if reverse else y).transpose(0, 1)  # (B, L, D)
    if z is not None:
        y = y * functional.silu(z.to(work).transpose(1, 2))
    return y.to(u.dtype).contiguous().transpose(1, 2), u.new_empty(0, dtype=work)


def _states_read(dt: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor) -> Tensor:
    """<C_l, h_l> with h_l = exp(dt_l A) h_{l-1} + x_l B_l: `(L, B, D)`.

    dt, x `(L, B, D)`; B, C `(L, B, N)`; A `(N, D)`.
    """
    length, batch, channels = x.shape
    per_step = tokens_per_step(length, A.numel())
    steps = -(-length // per_step)
    h = x.new_zeros(1, batch, *A.shape)
    cut = [_in_steps(t, steps, per_step) for t in (dt, x, B, C)]
    from torch._higher_order_ops.scan import scan_op

    _, y = scan_op(_step, [h], cut, (A,))
    return y.reshape(steps * per_step, batch, channels)[:length]


def _in_steps(tokens: Tensor, steps: int, per_step: int) -> Tensor:
    """`(L, B, X)` -> `(steps, tokens per step, B, X)`, padded with zeros, which leave the state as it is."""
    missing = steps * per_step - tokens.shape[0]
    if missing:
        tokens = functional.pad(tokens, (0, 0, 0, 0, 0, missing))
    return tokens.reshape(steps, per_step, *tokens.shape[1:])


def _step(h: Tensor, dt: Tensor, x: Tensor, B: Tensor, C: Tensor, A: Tensor) -> list[Tensor]:
    """State `(1, B, N, D)` and the tokens of a step `(T, B, .)` -> the next state, and the outputs."""
    decays = torch.exp(dt.unsqueeze(2) * A).split(1)
    pushes = (x.unsqueeze(2) * B.unsqueeze(3)).split(1)
    states = []
    for decay, push in zip(decays, pushes, strict=True):
        h = decay * h + push
        states.append(h)
    y = torch.matmul(C.unsqueeze(2), torch.cat(states)).squeeze(2)
    return [h.clone(), y]
