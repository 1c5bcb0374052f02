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
proportional to log(tokens), not to tokens. On CUDA devices, the operations of a segment are one graph, see
`captured`; all segments but the last of a sequence are of one size, and so are those of other lengths.

Nothing is divided by a product of decays, so strong decay underflows to 0 without harm.
Memory in addition to inputs and outputs: L/segment states, and 2 (backward: 4) tensors of a segment's states.
A `reverse` scan reads each segment's tokens flipped: small copies, as they have no states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm.captured import CudaGraphs, Graphs

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


@dataclass(frozen=True)
class _Options:
    """What the functions of a segment do in addition to their arguments."""

    work: torch.dtype  # of their arguments and results
    softplus: bool
    reverse: bool
    launched: bool


class _Cut:
    """The division of a segment's tokens into K chunks of T, padded at the end."""

    def __init__(self, options: _Options, tokens: int, states: int) -> None:
        """`states`: of a token, of all batch entries."""
        self.options, self.tokens = options, tokens
        self.K = chunk_count(tokens, states, options.launched)
        self.T = -(-tokens // self.K)

    def take(self, x: Tensor) -> Tensor:
        """Tokens `(B, tokens, X)` in reading order as `(T, B, K, X)`, padded with zeros."""
        x = x.to(self.options.work)
        if self.options.reverse:
            x = x.flip(1)
        if missing := self.K * self.T - self.tokens:
            x = functional.pad(x, (0, 0, 0, missing))
        return x.reshape(x.shape[0], self.K, self.T, x.shape[2]).permute(2, 0, 1, 3).contiguous()

    def put(self, part: Tensor) -> Tensor:
        """The inverse of `take`."""
        rows = part.permute(1, 2, 0, 3).flatten(1, 2)[:, : self.tokens]
        return rows.flip(1) if self.options.reverse else rows


class _Segment:
    """One segment of the inputs in reading order, padded to K T tokens with dt = 0: `(T, B, K, .)`."""

    def __init__(
        self, options: _Options, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A2: Tensor,
        bias: Tensor | None,
    ) -> None:  # fmt: skip
        """u, delta, B, C: `(B, tokens, .)`; A2 `(N, D)`: A log2(e), so that exp(dt A) = exp2(dt A2)."""
        self.cut = cut = _Cut(options, u.shape[1], u.shape[0] * A2.numel())
        raw = cut.take(delta)
        self.raw = raw if bias is None else raw + bias  # delta + bias
        dt = functional.softplus(self.raw) if options.softplus else self.raw
        if cut.tokens < cut.K * cut.T:
            there = (torch.arange(cut.K * cut.T, device=dt.device) < cut.tokens).view(cut.K, cut.T).T
            dt = dt * there[:, None, :, None]
        self.dt, self.A2 = dt, A2
        self.u, self.B, self.C = (cut.take(x) for x in (u, B, C))

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
    """The arguments of a scan as `(B, L, .)` tensors, and their division into segments."""

    def __init__(self, u, delta, A, B, C, delta_bias, delta_softplus, reverse):
        work = torch.promote_types(torch.float32, u.dtype)
        self.options = _Options(work, delta_softplus, reverse, launches(u.device.type))
        self.sequences = [t.transpose(1, 2) for t in (u, delta, B, C)]
        self.A2 = (A.to(work) * LOG2E).T.contiguous()
        self.bias = None if delta_bias is None else delta_bias.to(work)
        length = u.shape[2]
        size = segment_tokens(length, *A.shape, launched=self.options.launched)
        starts = range(0, length, size)
        self.bounds = [(a, min(a + size, length)) for a in (reversed(starts) if reverse else starts)]

    def segment(self, start: int, stop: int) -> list[Tensor]:
        """u, delta, B and C of the tokens of a segment."""
        return [x[:, start:stop] for x in self.sequences]


@cache
def graphs_of(device_type: str) -> Graphs | None:
    """The recorded graphs of a type of device, where it has them."""
    return CudaGraphs() if device_type == "cuda" else None


class _Calls:
    """Calls the functions of segments, by graphs where there are some."""

    def __init__(self, options: _Options, like: Tensor) -> None:
        self.options, self.like, self.space = options, like, _Space(like)
        self.graphs = graphs_of(like.device.type)

    def __call__(
        self,
        function: Callable[..., Sequence[Tensor | None]],
        arguments: Sequence[Tensor | None],
        targets: Sequence[Tensor | None],
    ) -> None:
        """Write the results of `function(space, options, *arguments)` to the targets that are not None."""

        def apart(*given: Tensor | None) -> Sequence[Tensor | None]:
            return function(_Space(self.like), self.options, *given)

        if self.graphs is not None:
            key = (function.__name__, self.options)
            if self.graphs.run(key, apart, arguments, targets, self.options.work):
                return
        results = function(self.space, self.options, *arguments)
        for target, result in zip(targets, results, strict=True):
            if target is not None and result is not None:
                target.copy_(result)


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
        return initial, last[:, 0]
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
    batch, chunks, *rest = decays.shape
    groups = -(-chunks // HOP)
    if missing := groups * HOP - chunks:
        decays = functional.pad(decays, (0, 0, 0, 0, 0, missing), value=1.0)
    # Products of decays and states advance together: one operation for both.
    both = pushes.new_zeros(2, batch, groups, HOP, *rest)
    both[0, :, :, 0] = decays[:, ::HOP]
    both[1].flatten(1, 2)[:, :chunks] = pushes
    steps = both.unbind(3)
    joined = steps[0]
    for step, decay in zip(steps[1:], decays.unflatten(1, (groups, HOP)).unbind(2)[1:], strict=True):
        joined = step.addcmul_(decay, joined)
    first = h.unsqueeze(1) if groups == 1 else arriving(joined[0], joined[1], h)[:, :-1]
    products, states = both
    after = states.addcmul_(products, first.unsqueeze(2)).flatten(1, 2)
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
    work = inputs.options.work
    batch, channels, length = u.shape
    y = torch.empty(batch, length, channels, dtype=work, device=u.device)
    # before each segment, and after the last
    states = y.new_zeros(len(inputs.bounds) + 1, batch, A.shape[1], channels)
    call = _Calls(inputs.options, y)
    for i, (start, stop) in enumerate(inputs.bounds):
        given = (*inputs.segment(start, stop), inputs.A2, inputs.bias, states[i])
        call(_forward_segment, given, (y[:, start:stop], states[i + 1]))
    if D is not None:
        y.addcmul_(u.transpose(1, 2).to(work), D.to(work))
    if z is not None:
        y.mul_(functional.silu(z.transpose(1, 2).to(work)))
    return y.transpose(1, 2), states[:-1] if save else y.new_empty(0)


def _forward_segment(
    space: _Space, options: _Options, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A2: Tensor,
    bias: Tensor | None, h: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """<C, h> of the tokens of a segment, `(B, tokens, D)`, and the state `(B, N, D)` after it."""
    segment = _Segment(options, u, delta, B, C, A2, bias)
    decays, states = space.take("decays", segment.shape), space.take("states", segment.shape)
    segment.decays(decays.whole)
    segment.pushes(states.whole)
    _, h = _run(decays, states, decays, h)
    return segment.cut.put(_read(states.whole, segment.C)), h


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the interface, and `mambamed.ssm.reference` for the chain rule."""
    inputs = _Inputs(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    work = inputs.options.work
    batch, channels, length = u.shape
    states = A.shape[1]
    du, ddelta = (torch.empty(batch, length, channels, dtype=work, device=u.device) for _ in range(2))
    dB, dC = (du.new_empty(batch, length, states) for _ in range(2))
    dz = None if z is None else torch.empty_like(du)
    dA, dA_part = du.new_zeros(states, channels), du.new_empty(states, channels)
    dD, dD_part = (None, None) if D is None else (du.new_zeros(channels), du.new_empty(channels))
    after, before = (du.new_zeros(batch, states, channels) for _ in range(2))
    skip, wholes = None if D is None else D.to(work), (du, ddelta, dB, dC, dz)
    call = _Calls(inputs.options, du)
    for i in range(len(inputs.bounds) - 1, -1, -1):
        start, stop = inputs.bounds[i]
        gates = [None if t is None else t.transpose(1, 2)[:, start:stop] for t in (grad_out, z)]
        given = (*inputs.segment(start, stop), inputs.A2, inputs.bias, *gates, skip, saved[i], after)
        parts = [None if whole is None else whole[:, start:stop] for whole in wholes]
        call(_backward_segment, given, (*parts, dA_part, dD_part, before))
        after, before = before, after
        dA += dA_part
        if dD is not None and dD_part is not None:
            dD += dD_part
    ddelta_bias = None if delta_bias is None else ddelta.sum((0, 1))
    turned = [None if g is None else g.transpose(1, 2) for g in (du, ddelta, dB, dC, dz)]
    return turned[0], turned[1], dA.T, turned[2], turned[3], dD, turned[4], ddelta_bias


def _backward_segment(
    space: _Space, options: _Options, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A2: Tensor,
    bias: Tensor | None, grad: Tensor, z: Tensor | None, D: Tensor | None, h: Tensor, after: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of one segment, given the state `h` before it and the adjoint state from the next segment.

    Returns those of u, delta, B, C and z, the parts of those of A `(N, D)` and D, and the adjoint state
    `(B, N, D)` for the previous segment.
    """
    segment = _Segment(options, u, delta, B, C, A2, bias)
    cut, dz, dD = segment.cut, None, None
    dy = cut.take(grad)
    decays, trajectory = _trajectory(segment, h, space)
    if z is not None:
        zf = cut.take(z)
        y = _read(trajectory[1:], segment.C)
        if D is not None:
            y.addcmul_(segment.u, D)
        gate = torch.sigmoid(zf)
        dz = cut.put(dy * y * gate * (1 + zf * (1 - gate)))
        dy = dy * zf * gate
    (du, ddt, dB, dC), dA, after = _adjoint(segment, decays, trajectory, dy, after, space)
    if D is not None:
        du = du.addcmul_(dy, D)
        dD = (dy * segment.u).sum((0, 1, 2))
    if options.softplus:
        ddt = ddt * torch.sigmoid(segment.raw)
    return (*(cut.put(part) for part in (du, ddt, dB, dC)), dz, dA, dD, after)


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
    segment: _Segment, decays: _Steps, trajectory: Tensor, dy: Tensor, after: Tensor, space: _Space
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Gradients of one segment, given the adjoint state `after` from the next segment.

    Returns `(du, ddt, dB, dC)`, each `(T, B, K, .)`, dA `(N, D)`, and the state for the previous segment.
    """
    products, adjoint = space.take("products", segment.shape), space.take("adjoint", segment.shape)
    g = torch.mul(dy.unsqueeze(3), segment.C.unsqueeze(4), out=adjoint.whole)
    after = _run_back(decays, adjoint, products, after)
    dC = torch.matmul(trajectory[1:], dy.unsqueeze(4)).squeeze(4)
    dB = torch.matmul(g, (segment.dt * segment.u).unsqueeze(4)).squeeze(4)
    gB = _read(g, segment.B)
    reached = g.mul_(decays.whole).mul_(trajectory[:-1])  # the gradient of dt A
    dA = torch.mul(reached, segment.dt.unsqueeze(3), out=products.whole).sum((0, 1, 2))
    scaled = torch.mul(reached, segment.A2 / LOG2E, out=products.whole)
    return (segment.dt * gB, scaled.sum(3).addcmul_(segment.u, gB), dB, dC), dA, after
