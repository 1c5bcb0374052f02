"""The scan in plain torch, for any device: one exponential per state and token, in tensors that fit a cache.

The sequence is divided into **segments**, processed one after the other, so that memory is bounded and a
segment's tensors stay in the cache. Decays exp(dt A) and inputs dt u B of all its tokens are computed at
once; then h_t = decay_t h_{t-1} + push_t runs through the tokens, one fused operation each, and the outputs
<C, h> are one batch of products. If the D x N states of a token are too few for an operation, the segment is
divided into K **chunks** of T tokens that advance together from zero, as do the products of their decays; a
loop over the chunks' ends then gives each its initial state, which those products carry to its tokens. The
backward pass does the same with the adjoint state, last token first, recomputing the states of one segment at
a time from the state stored at its start.

On devices other than CPUs every operation is a launch, so that there segments are larger, chunks have `HOP`
tokens, and the chunks' ends are run in the same way, recursively: the number of operations of a segment is
proportional to log(tokens), not to tokens.

Nothing is divided by a product of decays, so strong decay underflows to 0 without harm.
Memory in addition to inputs and outputs: L/segment states, and 2 (backward: 4) tensors of a segment's states.
A `reverse` scan reads each segment's tokens flipped: small copies, as they have no states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SEGMENT_NUMBERS = 1 << 19  # states of one segment: 2 MiB in float32
STEP_NUMBERS = 1 << 12  # states that justify a separate operation; fewer are joined by chunks ...
JOINED_NUMBERS = 1 << 14  # ... to about this many
LAUNCHED_NUMBERS = 1 << 24  # states of one segment where operations are launches: 64 MiB in float32
HOP = 8  # tokens of a chunk there
LOG2E = 1.4426950408889634


def launches(device_type: str) -> bool:
    """Whether every operation is a launch, whose cost does not depend on its size."""
    return device_type != "cpu"


def segment_tokens(length: int, d_inner: int, d_state: int, launched: bool) -> int:
    """Tokens of a segment: as many as `SEGMENT_NUMBERS`, or `LAUNCHED_NUMBERS`, allows, at least 16."""
    numbers = LAUNCHED_NUMBERS if launched else SEGMENT_NUMBERS
    return min(length, max(16, numbers // (d_inner * d_state)))


def saved_shape(
    batch: int, length: int, d_inner: int, d_state: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """`(S, B, N, D)`: the state at the start of each of the S segments."""
    # ceil by floor division: also correct for the symbolic lengths of torch.compile
    segments = -(-length // segment_tokens(length, d_inner, d_state, launches(device_type)))
    return (segments, batch, d_state, d_inner)


def chunk_count(tokens: int, states: int, launched: bool) -> int:
    """Number of chunks for this many tokens with this many states each (of all batch entries)."""
    if launched:
        return -(-tokens // HOP)
    if states >= STEP_NUMBERS:
        return 1
    return max(1, min(JOINED_NUMBERS // states, math.isqrt(tokens)))


@dataclass
class _Steps:
    """A segment's tensor `(T, B, K, N, D)`, and its T tokens."""

    whole: Tensor
    tokens: Sequence[Tensor]


class _Space:
    """Memory of a segment's states, reused by the next segment, with the (costly) views of its tokens."""

    def __init__(self, like: Tensor):
        self.like = like
        self.known: dict[tuple[str, tuple[int, ...]], _Steps] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> _Steps:
        """All segments but the last have one shape."""
        if (name, shape) not in self.known:
            whole = self.like.new_empty(shape)
            self.known[name, shape] = _Steps(whole, whole.unbind(0))
        return self.known[name, shape]


@dataclass
class _Segment:
    """One segment of the inputs in reading order, padded to K T tokens with dt = 0: `(T, B, K, .)`."""

    u: Tensor
    raw: Tensor  # delta + bias
    dt: Tensor
    B: Tensor
    C: Tensor
    A2: Tensor  # (N, D), A log2(e): exp(dt A) = exp2(dt A2)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(T, B, K, N, D)`."""
        return (*self.u.shape[:3], *self.A2.shape)

    def decays(self, out: Tensor) -> Tensor:
        """exp(dt A) of every token."""
        return torch.mul(self.dt.unsqueeze(3), self.A2, out=out).exp2_()

    def pushes(self, out: Tensor) -> Tensor:
        """dt u B of every token."""
        return torch.mul(self.B.unsqueeze(4), (self.dt * self.u).unsqueeze(3), out=out)


class _Inputs:
    """The arguments of a scan as `(B, L, .)` working-precision tensors, and their division into segments."""

    def __init__(self, u, delta, A, B, C, delta_bias, delta_softplus, reverse):
        self.work = torch.promote_types(torch.float32, u.dtype)
        self.u, self.delta, self.B, self.C = (t.transpose(1, 2) for t in (u, delta, B, C))
        self.A2 = (A.to(self.work) * LOG2E).T.contiguous()
        self.bias = None if delta_bias is None else delta_bias.to(self.work)
        self.softplus, self.reverse = delta_softplus, reverse
        self.launched = launches(u.device.type)
        length = u.shape[2]
        size = segment_tokens(length, *A.shape, launched=self.launched)
        starts = range(0, length, size)
        self.bounds = [(a, min(a + size, length)) for a in (reversed(starts) if reverse else starts)]

    def cut(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Tokens of `(B, L, X)` as `(T, B, K, X)`, padded with zeros."""
        tokens = stop - start
        K = chunk_count(tokens, x.shape[0] * self.A2.numel(), self.launched)
        T = -(-tokens // K)
        x = x[:, start:stop].to(self.work)
        if self.reverse:
            x = x.flip(1)
        if tokens < K * T:
            x = functional.pad(x, (0, 0, 0, K * T - tokens))
        return x.reshape(x.shape[0], K, T, x.shape[2]).permute(2, 0, 1, 3).contiguous()

    def put(self, whole: Tensor, start: int, stop: int, part: Tensor) -> None:
        """The inverse of `cut`: write `(T, B, K, X)` to tokens of `(B, L, X)`."""
        rows = part.permute(1, 2, 0, 3).flatten(1, 2)[:, : stop - start]
        whole[:, start:stop] = rows.flip(1) if self.reverse else rows

    def segment(self, start: int, stop: int) -> _Segment:
        raw = self.cut(self.delta, start, stop)
        if self.bias is not None:
            raw = raw + self.bias
        dt = functional.softplus(raw) if self.softplus else raw
        T, _, K, _ = dt.shape
        if stop - start < K * T:
            there = (torch.arange(K * T, device=dt.device) < stop - start).view(K, T).T
            dt = dt * there[:, None, :, None]
        u, B, C = (self.cut(x, start, stop) for x in (self.u, self.B, self.C))
        return _Segment(u, raw, dt, B, C, self.A2)


def _run(decays: _Steps, states: _Steps, products: _Steps, h: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence from `h` `(B, N, D)`; `states`, initially the pushes, become those after each token.

    `products` is memory for the products of decays since the chunk's start, and may be that of the decays.
    Returns the states before each chunk, `(B, K, N, D)`, and the one after the last.
    """
    before, last = h.unsqueeze(1), states.tokens[-1]
    chunks = last.shape[1]
    if chunks == 1:
        initial = before
        for decay, state in zip(decays.tokens, states.tokens, strict=True):
            before = state.addcmul_(decay, before)
        return initial, last[:, 0].clone()
    product = products.tokens[0].copy_(decays.tokens[0])
    before = states.tokens[0]
    for decay, state, target in zip(decays.tokens[1:], states.tokens[1:], products.tokens[1:], strict=True):
        before = state.addcmul_(decay, before)
        product = torch.mul(product, decay, out=target)
    if launches(last.device.type):
        after = arriving(product, last, h)
        initial, h = after[:, :-1], after[:, -1]
    else:
        initial = torch.empty_like(last)
        for k in range(chunks):
            initial[:, k] = h
            h = torch.addcmul(last[:, k], product[:, k], h)
    states.whole.addcmul_(products.whole, initial)
    return initial, h


def arriving(decays: Tensor, pushes: Tensor, h: Tensor) -> Tensor:
    """The states `(B, K + 1, N, D)` before each of K chunks and after the last, from `h (B, N, D)` on.

    `decays` and `pushes` `(B, K, N, D)` are those of whole chunks. HOP of them are joined, and the joined
    ones run in the same way: a number of operations proportional to log(K).
    """
    chunks = decays.shape[1]
    groups = -(-chunks // HOP)
    if missing := groups * HOP - chunks:
        decays = functional.pad(decays, (0, 0, 0, 0, 0, missing), value=1.0)
        pushes = functional.pad(pushes, (0, 0, 0, 0, 0, missing))
    grouped = (t.unflatten(1, (groups, HOP)).unbind(2) for t in (decays, pushes))
    steps = zip(*grouped, strict=True)
    product, state = next(steps)
    products, states = [product], [state]
    for decay, push in steps:
        product, state = product * decay, torch.addcmul(push, decay, state)
        products.append(product)
        states.append(state)
    first = h.unsqueeze(1) if groups == 1 else arriving(product, state, h)[:, :-1]
    after = torch.stack(states, 2).addcmul_(torch.stack(products, 2), first.unsqueeze(2)).flatten(1, 2)
    return torch.cat([h.unsqueeze(1), after[:, :chunks]], 1)


def _run_back(decays: _Steps, adjoint: _Steps, products: _Steps, after: Tensor) -> Tensor:
    """The adjoint recurrence g_t = read_t + decay_{t+1} g_{t+1}; `adjoint`, initially the reads, becomes g.

    `after` `(B, N, D)` is the adjoint state from the next segment; returns that for the previous one.
    """
    g, *earlier = reversed(adjoint.tokens)
    chunks = g.shape[1]
    following = list(reversed(decays.tokens))[:-1]
    if chunks == 1:
        g.add_(after.unsqueeze(1))
        for state, decay in zip(earlier, following, strict=True):
            g = state.addcmul_(decay, g)
        return (decays.tokens[0] * g)[:, 0]
    product, *targets = reversed(products.tokens)
    product.fill_(1)
    for state, decay, target in zip(earlier, following, targets, strict=True):
        g = state.addcmul_(decay, g)
        product = torch.mul(product, decay, out=target)
    decay = decays.tokens[0]
    if launches(g.device.type):
        sent = arriving((decay * product).flip(1), (decay * g).flip(1), after)
        given, after = sent[:, :-1].flip(1), sent[:, -1]
    else:
        given = torch.empty_like(g)
        for k in range(chunks - 1, -1, -1):
            given[:, k] = after
            after = decay[:, k] * torch.addcmul(g[:, k], product[:, k], after)
    adjoint.whole.addcmul_(products.whole, given)
    return after


def _read(states: Tensor, C: Tensor) -> Tensor:
    """<C, h> of every token: `(., N)` with `(., N, D)`."""
    return torch.matmul(C.unsqueeze(3), states).squeeze(3)


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the interface."""
    inputs = _Inputs(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    batch, channels, length = u.shape
    y = torch.empty(batch, length, channels, dtype=inputs.work, device=u.device)
    h = y.new_zeros(batch, A.shape[1], channels)
    space, kept = _Space(y), []
    for start, stop in inputs.bounds:
        segment = inputs.segment(start, stop)
        kept.append(h)
        decays, states = space.take("decays", segment.shape), space.take("states", segment.shape)
        segment.decays(decays.whole)
        segment.pushes(states.whole)
        _, h = _run(decays, states, decays, h)
        inputs.put(y, start, stop, _read(states.whole, segment.C))
    if D is not None:
        y.addcmul_(u.transpose(1, 2).to(inputs.work), D.to(inputs.work))
    if z is not None:
        y.mul_(functional.silu(z.transpose(1, 2).to(inputs.work)))
    return y.transpose(1, 2), torch.stack(kept) if save else y.new_empty(0)


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the interface, and `mambamed.ssm.reference` for the chain rule."""
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
    space = _Space(du)
    for i in range(len(inputs.bounds) - 1, -1, -1):
        start, stop = inputs.bounds[i]
        segment = inputs.segment(start, stop)
        dy = inputs.cut(grad_out.transpose(1, 2), start, stop)
        decays, trajectory = _trajectory(segment, saved[i], space)
        if z is not None and dz is not None:
            zf = inputs.cut(z.transpose(1, 2), start, stop)
            y = _read(trajectory[1:], segment.C)
            if D is not None:
                y.addcmul_(segment.u, D.to(work))
            gate = torch.sigmoid(zf)
            inputs.put(dz, start, stop, dy * y * gate * (1 + zf * (1 - gate)))
            dy = dy * zf * gate
        grads, after = _adjoint(segment, decays, trajectory, dy, after, dA, space)
        du_s, ddt, dB_s, dC_s = grads
        if D is not None and dD is not None:
            du_s = du_s.addcmul_(dy, D.to(work))
            dD += (dy * segment.u).sum((0, 1, 2))
        if delta_softplus:
            ddt = ddt * torch.sigmoid(segment.raw)
        for whole, part in ((du, du_s), (ddelta, ddt), (dB, dB_s), (dC, dC_s)):
            inputs.put(whole, start, stop, part)
    ddelta_bias = None if delta_bias is None else ddelta.sum((0, 1))
    turned = [None if g is None else g.transpose(1, 2) for g in (du, ddelta, dB, dC, dz)]
    return turned[0], turned[1], dA.T, turned[2], turned[3], dD, turned[4], ddelta_bias


def _trajectory(segment: _Segment, h: Tensor, space: _Space) -> tuple[_Steps, Tensor]:
    """Decays, and the states `(T + 1, B, K, N, D)` before the first and after each token."""
    T, *rest = segment.shape
    decays, products = space.take("decays", segment.shape), space.take("products", segment.shape)
    segment.decays(decays.whole)
    states = space.take("states", (T + 1, *rest))
    after = _Steps(states.whole[1:], states.tokens[1:])
    segment.pushes(after.whole)
    states.tokens[0].copy_(_run(decays, after, products, h)[0])
    return decays, states.whole


def _adjoint(
    segment: _Segment, decays: _Steps, trajectory: Tensor, dy: Tensor, after: Tensor, dA: Tensor,
    space: _Space,
) -> tuple[tuple[Tensor, ...], Tensor]:  # fmt: skip
    """Gradients of one segment, given the adjoint state `after` from the next segment.

    Returns `(du, ddt, dB, dC)`, each `(T, B, K, .)`, and the state for the previous segment; adds to dA.
    """
    products, adjoint = space.take("products", segment.shape), space.take("adjoint", segment.shape)
    g = torch.mul(dy.unsqueeze(3), segment.C.unsqueeze(4), out=adjoint.whole)
    after = _run_back(decays, adjoint, products, after)
    dC = torch.matmul(trajectory[1:], dy.unsqueeze(4)).squeeze(4)
    dB = torch.matmul(g, (segment.dt * segment.u).unsqueeze(4)).squeeze(4)
    gB = _read(g, segment.B)
    reached = g.mul_(decays.whole).mul_(trajectory[:-1])  # the gradient of dt A
    dA += torch.mul(reached, segment.dt.unsqueeze(3), out=products.whole).sum((0, 1, 2))
    scaled = torch.mul(reached, segment.A2 / LOG2E, out=products.whole)
    return (segment.dt * gB, scaled.sum(3).addcmul_(segment.u, gB), dB, dC), after
