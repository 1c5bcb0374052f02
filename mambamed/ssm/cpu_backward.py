"""The backward kernel of the `cpu` backend; read `mambamed.ssm.cpu_forward` first.

Tiles are processed last to first. The state before each tile was stored; the states within the tile and the
decays between them are recomputed into the scratch area (they fit the first-level cache), then the adjoint
state runs backwards through them. dB and dC are sums over channels, i.e. over the lanes of vectors: a
butterfly of shuffles sums W of them at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from numba import types

from mambamed.ssm.lanes import (
    FLOAT,
    compile_kernel,
    keep_kernel,
    load_arguments,
    load_rows,
    next_task,
    prefetch,
    store_rows,
    store_zero,
)
from mambamed.ssm.rows import TILE
from mambamed.ssm.simd import LOG2E, STAMP, LaneSums, Value, emitter, exp2, fma, sigmoid, softplus
from mambamed.ssm.turned import tile_rows


@emitter(lambda *arguments: types.void)
def prepare_adjoint(
    raw: Value, bias: Value, is_softplus: int, u: Value, g: Value, z: Value, gated: int,
    dt: Value, dtu: Value, slope: Value, dy: Value, gate: Value, width: int,
) -> None:  # fmt: skip
    """Same as `prepare_tokens`; also the softplus' slope, the gradient dy of y, and that of z over y."""
    step = raw.load(width) + bias.load(width)
    if is_softplus:
        slope.store(sigmoid([step])[0])
        step = softplus([step])[0]
    dt.store(step)
    dtu.store(step * u.load(width))
    gradient = g.load(width)
    if gated:
        x = z.load(width)
        opening = sigmoid([x])[0]
        # silu(x)' = s + x s (1 - s)
        gate.store(gradient * fma(x * opening, (opening * -1.0) + 1.0, opening))
        gradient = gradient * x * opening
    dy.store(gradient)


@emitter(lambda states, rates, dt, dtu, y, B, C, decays, trajectory, width: states)
def advance_keeping(
    states, rates, dt: Value, dtu: Value, y: Value, B: Value, C: Value, decays: Value, trajectory: Value,
    width: int
) -> list[Value]:  # fmt: skip
    """Same as `advance`, and stores the decays and the new states."""
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


def _two_groups(adjoint, dA, *rest):
    return types.Tuple((adjoint, dA))


@emitter(_two_groups)
def retreat(
    adjoint, dA, rates, dt: Value, dtu: Value, dy: Value, B: Value, C: Value, decays: Value, before: Value,
    after: Value, through_B: Value, through_A: Value, dB: Value, dC: Value, width: int,
) -> tuple[list[Value], list[Value]]:  # fmt: skip
    """One token, backward, for one group of states.

    With g = dy C + (what the next token sends back) the gradient of the state h: dB = sum_d g dt u,
    dC = sum_d dy h, what this token sends back = exp(dt A) g, and, summed over states, the gradient that
    reaches dt u through B (`through_B`) and dt through A log2(e) (`through_A`).
    """
    step, push, gradient = dt.load(width), dtu.load(width), dy.load(width)
    by_B, by_A = through_B.load(width), through_A.load(width)
    vector = width * FLOAT
    sent, new_dA = [], []
    totals = LaneSums(width)
    for n, rate in enumerate(rates):
        g = fma(gradient, C.at(FLOAT * n).broadcast(width), adjoint[n])
        totals.add(0, g * push)
        totals.add(1, gradient * after.at(vector * n).load(width))
        by_B = fma(g, B.at(FLOAT * n).broadcast(width), by_B)
        back = g * decays.at(vector * n).load(width)
        reached = back * before.at(vector * n).load(width)
        by_A = fma(reached, rate, by_A)
        sent.append(back)
        new_dA.append(fma(reached, step, dA[n]))
    total, half = totals.total(), width // 2
    for sums, lanes in ((dB, range(half)), (dC, range(half, width))):
        sums.store(sums.load(half) + total.shuffle(total, list(lanes)))
    through_B.store(by_B)
    through_A.store(by_A)
    return sent, new_dA


def _sums(*arguments):
    return arguments[-2]


@emitter(_sums)
def finish_adjoint(
    u: Value, dt: Value, slope: Value, is_softplus: int, dy: Value, gate: Value, gated: int, y: Value, skip:
    Value, through_B: Value, through_A: Value, du: Value, ddelta: Value, dz: Value, sums, width: int,
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


@emitter(lambda rows: rows)
def cleared(rows: list[Value]) -> list[Value]:
    """As many vectors of zeros."""
    return [row.filled(0.0) for row in rows]


@emitter(lambda address, lost, stride, rows: types.void)
def add_rows(address: Value, lost: Value, stride: Value, rows: list[Value]) -> None:
    """Add vectors to sums `stride` bytes apart by Kahan summation.

    The compensation is stored `lost` bytes after each sum; the error does not grow with the number of tiles.
    """
    for n, row in enumerate(rows):
        place = address.at(stride, n)
        before, taken = place.load(row.width), place.at(lost)
        entering = row - taken.load(row.width)
        after = before + entering
        taken.store((after - before) - entering)
        place.store(after)


def make_backward(width: int, is_softplus: int, gated: int, stamp: int) -> Callable:
    """The backward kernel; W/2 states at a time, so that their dB and dC fill one vector."""
    group, vector = width // 2, width * FLOAT

    @compile_kernel
    def backward(table):
        """`adjoint` becomes that before these tokens; adds to dA, dD, dbias (as in `add_rows`), dB and dC."""
        arguments = next_task(table, stamp)
        while arguments != 0:
            (
                u, rows_u, columns_u, delta, rows_delta, columns_delta, z, rows_z, columns_z,
                B, rows_B, columns_B, C, rows_C, columns_C, rates, skip, bias, row_state,
                g, rows_g, columns_g, kept, step_kept, du, rows_du, ddelta, rows_ddelta, dz, rows_dz,
                dB, rows_dB, dC, rows_dC, adjoint, dA, lost_dA, dD, dbias, lost, scratch, length, groups,
                blocks,
            ) = load_arguments(arguments, 44)  # fmt: skip
            area = TILE * vector
            dts, dtus, slopes, dys = scratch, scratch + area, scratch + 2 * area, scratch + 3 * area
            gates, ys = scratch + 4 * area, scratch + 5 * area
            by_B, by_A = scratch + 6 * area, scratch + 7 * area
            decays = scratch + 8 * area
            states = decays + group * area
            tile_u = states + group * area + group * vector
            tile_delta, tile_z, tile_g = tile_u + area, tile_u + 2 * area, tile_u + 3 * area
            tile_B, row_B = tile_u + 4 * area, groups * group * FLOAT
            tile_C = tile_B + TILE * row_B
            for tile_and_block in range((length + TILE - 1) // TILE * blocks - 1, -1, -1):
                tile = tile_and_block // blocks
                block = tile_and_block - tile * blocks
                x, c = block * vector, block * width
                first = tile * TILE
                count = min(TILE, length - first)
                shift = TILE - count
                us, row_u, next_u, step_u = tile_rows(
                    u + c * columns_u, rows_u, columns_u, first, shift, tile_u, vector, True, width
                )
                deltas, row_delta, next_delta, step_delta = tile_rows(
                    delta + c * columns_delta, rows_delta, columns_delta, first, shift, tile_delta, vector,
                    True, width,
                )  # fmt: skip
                zs, row_z, next_z, step_z = tile_rows(
                    z + c * columns_z, rows_z, columns_z, first, shift, tile_z, vector, gated != 0, width
                )
                gs, row_g, next_g, step_g = tile_rows(
                    g + c * columns_g, rows_g, columns_g, first, shift, tile_g, vector, True, width
                )
                Bs, step_B, Cs, step_C = B, rows_B, C, rows_C
                last = block == blocks - 1
                for n in range((groups - 1) * group, -1, -group):
                    Bs, step_B, _, _ = tile_rows(
                        B + n * columns_B, rows_B, columns_B, first, shift, tile_B + n * FLOAT, row_B,
                        last, group,
                    )  # fmt: skip
                    Cs, step_C, _, _ = tile_rows(
                        C + n * columns_C, rows_C, columns_C, first, shift, tile_C + n * FLOAT, row_B,
                        last, group,
                    )  # fmt: skip
                for i in range(count):
                    o = i * vector
                    prepare_adjoint(
                        deltas + i * row_delta, bias + x, is_softplus, us + i * row_u,
                        gs + i * row_g, zs + i * row_z, gated,
                        dts + o, dtus + o, slopes + o, dys + o, gates + o, width,
                    )  # fmt: skip
                    store_zero(ys + o, width)
                    store_zero(by_B + o, width)
                    store_zero(by_A + o, width)
                for j in range(groups):
                    at, n = j * group * row_state + x, j * group * FLOAT
                    A = load_rows(rates + at, row_state, width, group)
                    h = load_rows(kept + tile * step_kept + at, row_state, width, group)
                    store_rows(states, vector, h)
                    for i in range(count):
                        o, e = i * vector, i * group * vector
                        # the previous tile, line by line: all at once would wait for each other
                        prefetch(next_u + i * step_u - 2 * TILE * rows_u, 0)
                        prefetch(next_delta + i * step_delta - 2 * TILE * rows_delta, 0)
                        prefetch(next_z + i * step_z - 2 * TILE * rows_z, 0)
                        prefetch(next_g + i * step_g - 2 * TILE * rows_g, 0)
                        h = advance_keeping(
                            h, A, dts + o, dtus + o, ys + o, Bs + i * step_B + n, Cs + i * step_C + n,
                            decays + e, states + e + group * vector, width,
                        )  # fmt: skip
                    q = load_rows(adjoint + at, row_state, width, group)
                    a = cleared(q)
                    for i in range(count - 1, -1, -1):
                        t, o, e = first + i, i * vector, i * group * vector
                        before = t - TILE
                        prefetch(du + before * rows_du + x, 1)
                        prefetch(ddelta + before * rows_ddelta + x, 1)
                        prefetch(dz + before * rows_dz + x, 1)
                        q, a = retreat(
                            q, a, A, dts + o, dtus + o, dys + o, Bs + i * step_B + n, Cs + i * step_C + n,
                            decays + e, states + e, states + e + group * vector, by_B + o, by_A + o,
                            dB + t * rows_dB + n, dC + t * rows_dC + n, width,
                        )  # fmt: skip
                    store_rows(adjoint + at, row_state, q)
                    add_rows(dA + at, lost_dA, row_state, a)
                totals = cleared(load_rows(dD + x, dbias - dD, width, 2))
                for i in range(count):
                    t, o = first + i, i * vector
                    totals = finish_adjoint(
                        us + i * row_u, dts + o, slopes + o, is_softplus, dys + o, gates + o, gated, ys
                        + o, skip + x, by_B + o, by_A + o, du + t * rows_du + x, ddelta + t * rows_ddelta +
                        x, dz + t * rows_dz + x, totals, width,
                    )  # fmt: skip
                add_rows(dD + x, lost, dbias - dD, totals)
            arguments = next_task(table, stamp)

    return backward


def scratch_floats(width: int, states: int) -> int:
    """Size of the scratch area that each kernel needs for this many states."""
    return 12 * TILE * width + (width // 2) * width * (2 * TILE + 1) + 2 * TILE * states


@functools.cache
def backward_kernel(width: int, is_softplus: bool, gated: bool) -> int:
    """Address of the backward kernel for these choices."""
    return keep_kernel(make_backward(width, int(is_softplus), int(gated), STAMP))
