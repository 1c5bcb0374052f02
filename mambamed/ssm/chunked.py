"""The scan in plain torch, for any device: many short loops side by side instead of one long one.

The sequence is cut into **segments** (worked through one after the other, so that memory stays bounded) and
each segment into K **chunks** of T tokens. All K chunks advance together, T steps of elementwise work on
tensors `(B, K, N, D)`. Two rounds: the first starts every chunk from zero and gives what it adds to the
state; a loop over the K chunk ends then gives every chunk its true initial state, from which the second
round computes the outputs. The backward pass does the same with the adjoint state, last token first,
recomputing the states of one segment at a time from the state kept at its start.

Nothing is ever divided by a product of decays, so strong decay underflows to 0 and does no harm.
Memory beside inputs and outputs: L/segment states kept, and one segment of states while working.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SEGMENT_NUMBERS = 1 << 22  # states of one segment: 16 MiB in float32, so that a step's tensors stay in cache
LOG2E = 1.4426950408889634


def segment_tokens(length: int, d_inner: int, d_state: int) -> int:
    """Tokens of a segment: as many as `SEGMENT_NUMBERS` allows, at least 64."""
    return min(length, max(64, SEGMENT_NUMBERS // (d_inner * d_state)))


def saved_shape(batch: int, length: int, d_inner: int, d_state: int) -> tuple[int, ...]:
    """`(S, B, N, D)`: the state with which each of the S segments begins."""
    # ceil by floor division: also right for the symbolic lengths of torch.compile
    segments = -(-length // segment_tokens(length, d_inner, d_state))
    return (segments, batch, d_state, d_inner)


@dataclass
class _Segment:
    """One segment of the inputs, padded to K T tokens: `(B, K, T, .)`; padding has dt = 0 and changes
    nothing.
    """

    u: Tensor
    raw: Tensor  # delta + bias
    dt: Tensor
    B: Tensor
    C: Tensor
    A2: Tensor  # (N, D), A log2(e): exp(dt A) = exp2(dt A2)
    steps: list[int]  # order of the tokens within a chunk, and of the chunks
    chunks: list[int]

    def decay(self, t: int) -> Tensor:
        """exp(dt A) of token t of every chunk, `(B, K, N, D)`."""
        return torch.exp2(self.dt[:, :, t, None, :] * self.A2)

    def push(self, t: int) -> Tensor:
        """dt u B of token t, `(B, K, N, D)`."""
        return self.B[:, :, t, :, None] * (self.dt[:, :, t] * self.u[:, :, t])[:, :, None, :]

    def chunk_decay(self) -> Tensor:
        """The decay over a whole chunk, `(B, K, N, D)`."""
        return torch.exp2(self.dt.sum(2)[:, :, None, :] * self.A2)

    def initial_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """States `(B, K, N, D)` before each chunk, and `(B, N, D)` after the segment, from `h` before it."""
        added = torch.zeros_like(self.A2.expand(*self.u.shape[:2], *self.A2.shape)).contiguous()
        for t in self.steps:
            added.mul_(self.decay(t)).add_(self.push(t))
        initial = torch.empty_like(added)
        decay = self.chunk_decay()
        for k in self.chunks:
            initial[:, k] = h
            h = torch.addcmul(added[:, k], decay[:, k], h)
        return initial, h


class _Inputs:
    """The arguments of a scan as `(B, L, .)` working-precision tensors, and their cut into segments."""

    def __init__(self, u, delta, A, B, C, delta_bias, delta_softplus, reverse):
        self.work = torch.promote_types(torch.float32, u.dtype)
        self.u, self.delta, self.B, self.C = (t.transpose(1, 2) for t in (u, delta, B, C))
        self.A2 = (A.to(self.work) * LOG2E).T.contiguous()
        self.bias = None if delta_bias is None else delta_bias.to(self.work)
        self.softplus, self.reverse = delta_softplus, reverse
        length = u.shape[2]
        size = segment_tokens(length, *A.shape)
        starts = range(0, length, size)
        self.bounds = [(a, min(a + size, length)) for a in (reversed(starts) if reverse else starts)]

    def segment(self, start: int, stop: int) -> _Segment:
        tokens = stop - start
        T = max(1, min(64, math.isqrt(tokens)))
        K = -(-tokens // T)

        def cut(x: Tensor) -> Tensor:
            return cut_chunks(x[:, start:stop].to(self.work), K, T)

        raw = cut(self.delta)
        if self.bias is not None:
            raw = raw + self.bias
        dt = functional.softplus(raw) if self.softplus else raw
        if tokens < K * T:
            dt = dt.clone() if dt is raw else dt
            dt.flatten(1, 2)[:, tokens:] = 0
        steps, chunks = list(range(T)), list(range(K))
        if self.reverse:
            steps, chunks = steps[::-1], chunks[::-1]
        return _Segment(cut(self.u), raw, dt, cut(self.B), cut(self.C), self.A2, steps, chunks)


def cut_chunks(x: Tensor, K: int, T: int) -> Tensor:
    """`(B, tokens, X)` -> `(B, K, T, X)`, padded with zeros."""
    padding = K * T - x.shape[1]
    if padding:
        x = functional.pad(x, (0, 0, 0, padding))
    return x.reshape(x.shape[0], K, T, x.shape[2])


def _outputs(segment: _Segment, h: Tensor) -> Tensor:
    """<C, h> for every token, `(B, K, T, D)`; `h` are the chunks' initial states and are overwritten."""
    y = torch.empty_like(segment.u)
    for t in segment.steps:
        h.mul_(segment.decay(t)).add_(segment.push(t))
        # (B, K, 1, N) @ (B, K, N, D)
        y[:, :, t] = torch.matmul(segment.C[:, :, t, None, :], h)[:, :, 0]
    return y


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the seam."""
    inputs = _Inputs(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    batch, channels, length = u.shape
    y = torch.empty(batch, length, channels, dtype=inputs.work, device=u.device)
    h = y.new_zeros(batch, A.shape[1], channels)
    kept = []
    for start, stop in inputs.bounds:
        segment = inputs.segment(start, stop)
        kept.append(h)
        initial, h = segment.initial_states(h)
        y[:, start:stop] = _outputs(segment, initial).flatten(1, 2)[:, : stop - start]
    if D is not None:
        y.addcmul_(u.transpose(1, 2).to(inputs.work), D.to(inputs.work))
    if z is not None:
        y.mul_(functional.silu(z.transpose(1, 2).to(inputs.work)))
    return y.transpose(1, 2), torch.stack(kept) if save else y.new_empty(0)


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the seam; the chain rule is spelled out in `mambamed.ssm.reference`."""
    inputs = _Inputs(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    work = inputs.work
    batch, channels, length = u.shape
    states = A.shape[1]
    du, ddelta = (torch.empty(batch, length, channels, dtype=work, device=u.device) for _ in range(2))
    dB, dC = (du.new_empty(batch, length, states) for _ in range(2))
    dz = None if z is None else torch.empty_like(du)
    dA = du.new_zeros(states, channels)
    dD = None if D is None else du.new_zeros(channels)
    after = du.new_zeros(batch, states, channels)
    A_nd = A.to(work).T.contiguous()
    for i in range(len(inputs.bounds) - 1, -1, -1):
        start, stop = inputs.bounds[i]
        tokens = stop - start
        segment = inputs.segment(start, stop)
        K, T = segment.u.shape[1:3]
        dy = cut_chunks(grad_out.transpose(1, 2)[:, start:stop].to(work), K, T)
        trajectory, y = _trajectory(segment, saved[i])
        if z is not None and dz is not None:
            zf = cut_chunks(z.transpose(1, 2)[:, start:stop].to(work), K, T)
            if D is not None:
                y = y + segment.u * D.to(work)
            gate = torch.sigmoid(zf)
            dz[:, start:stop] = _flat(dy * y * gate * (1 + zf * (1 - gate)), tokens)
            dy = dy * zf * gate
        grads, dA_segment, after = _adjoint(segment, trajectory, dy, after, A_nd)
        du_s, ddt, dB_s, dC_s = grads
        if D is not None and dD is not None:
            du_s = du_s.addcmul_(dy, D.to(work))
            dD += (dy * segment.u).sum((0, 1, 2))
        if delta_softplus:
            ddt = ddt * torch.sigmoid(segment.raw)
        dA += dA_segment
        for whole, part in ((du, du_s), (ddelta, ddt), (dB, dB_s), (dC, dC_s)):
            whole[:, start:stop] = _flat(part, tokens)
    ddelta_bias = None if delta_bias is None else ddelta.sum((0, 1))
    turned = [None if g is None else g.transpose(1, 2) for g in (du, ddelta, dB, dC, dz)]
    return turned[0], turned[1], dA.T, turned[2], turned[3], dD, turned[4], ddelta_bias


def _flat(x: Tensor, tokens: int) -> Tensor:
    return x.flatten(1, 2)[:, :tokens]


def _trajectory(segment: _Segment, h: Tensor) -> tuple[Tensor, Tensor]:
    """States `(T + 1, B, K, N, D)`, before the first and after each step, and <C, h> `(B, K, T, D)`."""
    initial, _ = segment.initial_states(h)
    states = initial.new_empty(len(segment.steps) + 1, *initial.shape)
    states[0] = initial
    y = torch.empty_like(segment.u)
    for i, t in enumerate(segment.steps):
        torch.mul(states[i], segment.decay(t), out=states[i + 1]).add_(segment.push(t))
        y[:, :, t] = torch.matmul(segment.C[:, :, t, None, :], states[i + 1])[:, :, 0]
    return states, y


def _adjoint(segment: _Segment, trajectory: Tensor, dy: Tensor, after: Tensor, A: Tensor):
    """Gradients of one segment, last step first, given `after` = what the next segment sends back to the
    state.

    Returns `(du, ddt, dB, dC)`, each `(B, K, T, .)`, `dA (N, D)`, and what is sent to the segment before.
    """

    def read(t: int) -> Tensor:
        return dy[:, :, t, None, :] * segment.C[:, :, t, :, None]

    sent = torch.zeros_like(trajectory[0])
    for t in reversed(segment.steps):
        sent.add_(read(t)).mul_(segment.decay(t))
    arriving = torch.empty_like(sent)
    decay = segment.chunk_decay()
    for k in reversed(segment.chunks):
        arriving[:, k] = after
        after = torch.addcmul(sent[:, k], decay[:, k], after)

    du, ddt = torch.empty_like(segment.u), torch.empty_like(segment.u)
    dB, dC = torch.empty_like(segment.B), torch.empty_like(segment.C)
    dA = torch.zeros_like(A)
    g = arriving
    for i in range(len(segment.steps) - 1, -1, -1):
        t = segment.steps[i]
        dt, u = segment.dt[:, :, t], segment.u[:, :, t]
        # (B, K, N, D) @ (B, K, D, 1)
        dC[:, :, t] = torch.matmul(trajectory[i + 1], dy[:, :, t, :, None])[..., 0]
        g = g.add_(read(t))
        dB[:, :, t] = torch.matmul(g, (dt * u)[..., None])[..., 0]
        gB = torch.matmul(segment.B[:, :, t, None, :], g)[:, :, 0]
        du[:, :, t] = dt * gB
        g = g.mul_(segment.decay(t))
        decayed = g * trajectory[i]
        ddt[:, :, t] = (decayed * A).sum(2).addcmul_(u, gB)
        dA += (decayed * dt[:, :, None, :]).sum((0, 1))
    return (du, ddt, dB, dC), dA, after
