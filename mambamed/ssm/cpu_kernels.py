"""The kernels of the `cpu` backend: one block of channels, forward and backward.

Vectors run over channels (the tensors are channel-last, so W neighboring channels are W neighboring numbers), the
states of these W channels live in registers, and B and C are broadcast. The sequence is worked through in tiles
of `TILE` tokens; within a tile what all states share (step size, input, gate) is computed once into a scratch
area, then the states follow in groups that fit into the registers. All arguments are addresses and strides in
bytes; `rows_*` strides lead from one token to the next.

The state before every tile is kept for the backward pass, which computes the states of one tile again, keeps them
and the decays in the scratch area (first-level cache), and runs the adjoint through them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from numba import njit, types

from mambamed.ssm.simd import LOG2E, STAMP, Lanes, LaneSums, Value, emitter, exp2, fma, sigmoid, softplus

TILE = 16  # tokens between two kept states
FLOAT = 4  # bytes
ABREAST = 8  # states whose exponentials are computed together


def _rows(address, stride, width, count):
    return types.UniTuple(Lanes(width.literal_value), count.literal_value)


@emitter(_rows)
def load_rows(address: Value, stride: Value, width: int, count: int) -> list[Value]:
    """`count` vectors, `stride` bytes apart."""
    return [address.at(stride, n).load(width) for n in range(count)]


@emitter(lambda address, stride, rows: types.void)
def store_rows(address: Value, stride: Value, rows: list[Value]) -> None:
    """The inverse of `load_rows`."""
    for n, row in enumerate(rows):
        address.at(stride, n).store(row)


@emitter(_rows)
def zero_rows(address: Value, stride: Value, width: int, count: int) -> list[Value]:
    """`count` vectors of zeros (the address is not read)."""
    zero = address.load(width) * 0.0
    return [zero for _ in range(count)]


@emitter(lambda address, write: types.void)
def prefetch(address: Value, write: int) -> None:
    """Ask for a cache line that will be needed soon."""
    address.prefetch(bool(write))


# --- what all states share --------------------------------------------------------------------------------------


@emitter(lambda raw, bias, is_softplus, u, dt, dtu, width: types.void)
def prepare_token(
    raw: Value, bias: Value, is_softplus: int, u: Value, dt: Value, dtu: Value, width: int
) -> None:
    """Step size dt = softplus(delta + bias), and dt u."""
    step = raw.load(width) + bias.load(width)
    if is_softplus:
        step = softplus(step)
    dt.store(step)
    dtu.store(step * u.load(width))


@emitter(lambda out, y, u, skip, z, gated, width: types.void)
def finish_token(out: Value, y: Value, u: Value, skip: Value, z: Value, gated: int, width: int) -> None:
    """out = (y + D u) silu(z)."""
    result = fma(u.load(width), skip.load(width), y.load(width))
    if gated:
        gate = z.load(width)
        result = result * gate * sigmoid(gate)
    out.store(result)


@emitter(lambda states, rates, dt, dtu, y, B, C, width: states)
def advance(states, rates, dt: Value, dtu: Value, y: Value, B: Value, C: Value, width: int) -> list[Value]:
    """One token, forward: h = exp(dt A) h + dt u B, y = y + C h, for one group of states."""
    step, push = dt.load(width), dtu.load(width)
    outputs = [y.load(width)]
    new = []
    for first in range(0, len(states), ABREAST):
        group = range(first, min(first + ABREAST, len(states)))
        decays = exp2([step * rates[n] for n in group])
        for n, decay in zip(group, decays, strict=True):
            entering = push * B.at(FLOAT * n).broadcast(width)
            new.append(fma(decay, states[n], entering))
        for lane, n in enumerate(group):
            read = C.at(FLOAT * n).broadcast(width)
            if lane < len(outputs):
                outputs[lane] = fma(new[n], read, outputs[lane])
            else:
                outputs.append(new[n] * read)
    y.store(functools.reduce(lambda a, b: a + b, outputs))
    return new


def make_forward(width: int, group: int, is_softplus: int, gated: int, stamp: int) -> Callable:
    """Compile the forward kernel: `group` states at a time, with or without softplus and gate."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def forward(
        u, rows_u, delta, rows_delta, z, rows_z, out, rows_out, B, rows_B, C, rows_C,
        rates, skip, bias, state, row_state, kept, step_kept, scratch, length, groups, blocks,
    ):  # fmt: skip
        """`state` is read and left as the state after the last token; `kept` 0 keeps nothing."""
        vector = width * FLOAT
        dts, dtus, ys = scratch, scratch + TILE * vector, scratch + 2 * TILE * vector
        for first in range(0, length, TILE):
            count = min(TILE, length - first)
            for block in range(blocks):
                x = block * vector
                for g in range(groups * (kept != 0)):
                    at = g * group * row_state + x
                    rows = load_rows(state + at, row_state, width, group)
                    store_rows(kept + (first // TILE) * step_kept + at, row_state, rows)
                for i in range(count):
                    t = first + i
                    prepare_token(
                        delta + t * rows_delta + x, bias + x, is_softplus, u + t * rows_u + x, dts + i * vector,
                        dtus + i * vector, width,
                    )  # fmt: skip
                    store_rows(ys + i * vector, 0, zero_rows(bias, 0, width, 1))
                    prefetch(u + (t + TILE) * rows_u + x, 0)
                    prefetch(delta + (t + TILE) * rows_delta + x, 0)
                    prefetch(z + (t + TILE) * rows_z + x, 0)
                    prefetch(out + (t + TILE) * rows_out + x, 1)
                for g in range(groups):
                    at = g * group * row_state + x
                    h = load_rows(state + at, row_state, width, group)
                    A = load_rows(rates + at, row_state, width, group)
                    for i in range(count):
                        b = B + (first + i) * rows_B + g * group * FLOAT
                        c = C + (first + i) * rows_C + g * group * FLOAT
                        o = i * vector
                        h = advance(h, A, dts + o, dtus + o, ys + o, b, c, width)
                    store_rows(state + at, row_state, h)
                for i in range(count):
                    t = first + i
                    finish_token(
                        out + t * rows_out + x, ys + i * vector, u + t * rows_u + x, skip + x, z + t * rows_z + x,
                        gated, width,
                    )  # fmt: skip
        return stamp

    return forward


# --- backward ---------------------------------------------------------------------------------------------------


@emitter(
    lambda raw, bias, is_softplus, u, g, z, gated, dt, dtu, slope, dy, gate, width: types.void,
)
def prepare_adjoint(
    raw: Value, bias: Value, is_softplus: int, u: Value, g: Value, z: Value, gated: int,
    dt: Value, dtu: Value, slope: Value, dy: Value, gate: Value, width: int,
) -> None:  # fmt: skip
    """As `prepare_token`; also the softplus' slope, the gradient dy of y, and d out / d y's gate."""
    step = raw.load(width) + bias.load(width)
    if is_softplus:
        slope.store(sigmoid(step))
        step = softplus(step)
    dt.store(step)
    dtu.store(step * u.load(width))
    gradient = g.load(width)
    if gated:
        x = z.load(width)
        opening = sigmoid(x)
        # silu(x)' = s + x s (1 - s)
        gate.store(gradient * fma(x * opening, (opening * -1.0) + 1.0, opening))
        gradient = gradient * x * opening
    dy.store(gradient)


@emitter(lambda states, rates, dt, dtu, y, B, C, decays, trajectory, width: states)
def advance_keeping(
    states, rates, dt: Value, dtu: Value, y: Value, B: Value, C: Value, decays: Value, trajectory: Value, width: int
) -> list[Value]:  # fmt: skip
    """As `advance`, writing down the decays and the new states."""
    step, push, result = dt.load(width), dtu.load(width), y.load(width)
    vector = width * FLOAT
    new = []
    factors = exp2([step * rate for rate in rates])
    for n, (factor, state) in enumerate(zip(factors, states, strict=True)):
        decays.at(vector * n).store(factor)
        state = fma(factor, state, push * B.at(FLOAT * n).broadcast(width))
        trajectory.at(vector * n).store(state)
        result = fma(state, C.at(FLOAT * n).broadcast(width), result)
        new.append(state)
    y.store(result)
    return new


@emitter(
    lambda adjoint, dA, rates, dt, dtu, dy, B, C, decays, before, after, through_B, through_A, sums, width: (
        types.Tuple((adjoint, dA))
    )
)
def retreat(
    adjoint, dA, rates, dt: Value, dtu: Value, dy: Value, B: Value, C: Value, decays: Value, before: Value,
    after: Value, through_B: Value, through_A: Value, sums: Value, width: int,
) -> tuple[list[Value], list[Value]]:  # fmt: skip
    """One token, backward, for one group of states.

    With g = dy C + (what the next token sends back) the gradient of the state h: dB = sum_d g dt u,
    dC = sum_d dy h, what this token sends back = exp(dt A) g, and, summed over states, the gradient that reaches
    dt u through B (`through_B`) and dt through A log2(e) (`through_A`).
    """
    step, push, gradient = dt.load(width), dtu.load(width), dy.load(width)
    by_B, by_A = through_B.load(width), through_A.load(width)
    vector = width * FLOAT
    sent, new_dA = [], []
    totals = LaneSums(width)
    for n, rate in enumerate(rates):
        g = fma(gradient, C.at(FLOAT * n).broadcast(width), adjoint[n])
        totals.add(g * push)
        totals.add(gradient * after.at(vector * n).load(width))
        by_B = fma(g, B.at(FLOAT * n).broadcast(width), by_B)
        back = g * decays.at(vector * n).load(width)
        reached = back * before.at(vector * n).load(width)
        by_A = fma(reached, rate, by_A)
        sent.append(back)
        new_dA.append(fma(reached, step, dA[n]))
    sums.store(sums.load(width) + totals.total())
    through_B.store(by_B)
    through_A.store(by_A)
    return sent, new_dA


@emitter(
    lambda u, dt, slope, is_softplus, dy, gate, gated, y, skip, through_B, through_A, du, ddelta, dz, sums, width: (
        sums
    )
)
def finish_adjoint(
    u: Value, dt: Value, slope: Value, is_softplus: int, dy: Value, gate: Value, gated: int, y: Value, skip: Value,
    through_B: Value, through_A: Value, du: Value, ddelta: Value, dz: Value, sums, width: int,
) -> list[Value]:  # fmt: skip
    """Gradients of one token's u, delta and z; adds to the sums over tokens of dD and of ddelta."""
    value, gradient, by_B, passed = u.load(width), dy.load(width), through_B.load(width), skip.load(width)
    du.store(fma(gradient, passed, dt.load(width) * by_B))
    step = fma(value, by_B, through_A.load(width) * (1 / LOG2E))
    if is_softplus:
        step = step * slope.load(width)
    ddelta.store(step)
    if gated:
        dz.store(gate.load(width) * fma(value, passed, y.load(width)))
    return [fma(gradient, value, sums[0]), sums[1] + step]


def make_backward(width: int, is_softplus: int, gated: int, stamp: int) -> Callable:
    """Compile the backward kernel; W/2 states at a time, so that their dB and dC fill one vector."""
    group = width // 2

    @njit(nogil=True, cache=True, error_model="numpy")
    def backward(
        u, rows_u, delta, rows_delta, z, rows_z, g, rows_g, B, rows_B, C, rows_C,
        rates, skip, bias, row_state, kept, step_kept,
        du, rows_du, ddelta, rows_ddelta, dz, rows_dz, dBC, rows_dBC, adjoint, dA, dD, dbias,
        scratch, length, groups, blocks,
    ):  # fmt: skip
        """`adjoint` is read and left as what this stretch of tokens sends back; dA, dD, dbias and dBC are added to.

        A token's row of dBC holds dB and dC of the first state, then of the second, ...
        """
        vector = width * FLOAT
        tile = TILE * vector
        dts, dtus, slopes, dys = scratch, scratch + tile, scratch + 2 * tile, scratch + 3 * tile
        gates, ys, by_B, by_A = scratch + 4 * tile, scratch + 5 * tile, scratch + 6 * tile, scratch + 7 * tile
        decays = scratch + 8 * tile
        states = decays + group * tile
        for k in range((length + TILE - 1) // TILE - 1, -1, -1):
            first = k * TILE
            count = min(TILE, length - first)
            for block in range(blocks):
                x = block * vector
                for i in range(count):
                    t, o = first + i, i * vector
                    prepare_adjoint(
                        delta + t * rows_delta + x, bias + x, is_softplus, u + t * rows_u + x,
                        g + t * rows_g + x, z + t * rows_z + x, gated,
                        dts + o, dtus + o, slopes + o, dys + o, gates + o, width,
                    )  # fmt: skip
                    nothing = zero_rows(bias, 0, width, 1)
                    store_rows(ys + o, 0, nothing)
                    store_rows(by_B + o, 0, nothing)
                    store_rows(by_A + o, 0, nothing)
                    before = t - TILE
                    prefetch(u + before * rows_u + x, 0)
                    prefetch(delta + before * rows_delta + x, 0)
                    prefetch(z + before * rows_z + x, 0)
                    prefetch(g + before * rows_g + x, 0)
                    prefetch(du + before * rows_du + x, 1)
                    prefetch(ddelta + before * rows_ddelta + x, 1)
                    prefetch(dz + before * rows_dz + x, 1)
                for j in range(groups):
                    at, n = j * group * row_state + x, j * group * FLOAT
                    A = load_rows(rates + at, row_state, width, group)
                    h = load_rows(kept + k * step_kept + at, row_state, width, group)
                    store_rows(states, vector, h)
                    for i in range(count):
                        t, o, e = first + i, i * vector, i * group * vector
                        h = advance_keeping(
                            h, A, dts + o, dtus + o, ys + o, B + t * rows_B + n, C + t * rows_C + n,
                            decays + e, states + e + group * vector, width,
                        )  # fmt: skip
                    q = load_rows(adjoint + at, row_state, width, group)
                    a = load_rows(dA + at, row_state, width, group)
                    for i in range(count - 1, -1, -1):
                        t, o, e = first + i, i * vector, i * group * vector
                        q, a = retreat(
                            q, a, A, dts + o, dtus + o, dys + o, B + t * rows_B + n, C + t * rows_C + n,
                            decays + e, states + e, states + e + group * vector, by_B + o, by_A + o,
                            dBC + t * rows_dBC + 2 * n, width,
                        )  # fmt: skip
                    store_rows(adjoint + at, row_state, q)
                    store_rows(dA + at, row_state, a)
                totals = load_rows(dD + x, dbias - dD, width, 2)
                for i in range(count):
                    t, o = first + i, i * vector
                    totals = finish_adjoint(
                        u + t * rows_u + x, dts + o, slopes + o, is_softplus, dys + o, gates + o, gated, ys + o,
                        skip + x, by_B + o, by_A + o, du + t * rows_du + x, ddelta + t * rows_ddelta + x,
                        dz + t * rows_dz + x, totals, width,
                    )  # fmt: skip
                store_rows(dD + x, dbias - dD, totals)
        return stamp

    return backward


def scratch_floats(width: int) -> int:
    """Size of the scratch area that either kernel needs."""
    return 8 * TILE * width + (width // 2) * width * (2 * TILE + 1)


@functools.cache
def forward_kernel(width: int, group: int, is_softplus: bool, gated: bool) -> Callable:
    """The forward kernel for these choices, compiled once a process (or read from numba's cache on disk)."""
    return make_forward(width, group, int(is_softplus), int(gated), STAMP)


@functools.cache
def backward_kernel(width: int, is_softplus: bool, gated: bool) -> Callable:
    """The backward kernel for these choices."""
    return make_backward(width, int(is_softplus), int(gated), STAMP)
