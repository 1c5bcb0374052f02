"""The forward kernel of the `cpu` backend.

Vectors run over channels (tensors are channel-last: W adjacent channels are W adjacent numbers), the states
of these channels are kept in registers, B and C are broadcast. The sequence is processed in tiles of `TILE`
tokens; within a tile, values shared by all states (step size, input, gate) are computed once into a scratch
area, then the states are processed in groups that fit into the registers. All arguments are addresses and
strides in bytes; `rows_x` is the stride from one token of x to the next, negative if the sequence is read
backwards, `columns_x` that from one channel to the next (see `mambamed.ssm.turned`). Channel blocks are the
inner loop, so that whole rows of the tensors are read.
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
)
from mambamed.ssm.rows import TILE
from mambamed.ssm.simd import STAMP, Value, emitter, exp2, fma, sigmoid, softplus
from mambamed.ssm.turned import tile_rows

ABREAST = 4  # states, and tokens, whose exponentials are computed together


@emitter(lambda *arguments: types.void)
def prepare_tokens(
    raw: Value, rows_raw: Value, bias: Value, is_softplus: int, u: Value, rows_u: Value, skip: Value,
    z: Value, rows_z: Value, gated: int, scratch: Value, area: int, count: int, width: int,
) -> None:  # fmt: skip
    """For `count` tokens, into four scratch areas: dt = softplus(delta + bias), dt u, D u, silu(z)."""
    shift, passed = bias.load(width), skip.load(width)
    steps = [raw.at(rows_raw, i).load(width) + shift for i in range(count)]
    values = [u.at(rows_u, i).load(width) for i in range(count)]
    if is_softplus:
        steps = softplus(steps)
    vectors = [steps, [dt * value for dt, value in zip(steps, values, strict=True)]]
    vectors.append([value * passed for value in values])
    if gated:
        gates = [z.at(rows_z, i).load(width) for i in range(count)]
        vectors.append([gate * opening for gate, opening in zip(gates, sigmoid(gates), strict=True)])
    for place, rows in enumerate(vectors):
        for i, row in enumerate(rows):
            scratch.at(place * area + FLOAT * width * i).store(row)


@emitter(lambda out, y, gate, gated, width: types.void)
def finish_token(out: Value, y: Value, gate: Value, gated: int, width: int) -> None:
    """out = y silu(z), where y includes D u."""
    result = y.load(width)
    out.store(result * gate.load(width) if gated else result)


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
    """The forward kernel for `group` states at a time, with or without softplus and gate."""
    vector, half = width * FLOAT, width // 2
    area = TILE * vector

    @compile_kernel
    def forward(table):
        """`state` is updated to the state after the last token; `kept` 0 stores nothing."""
        arguments = next_task(table, stamp)
        while arguments != 0:
            (
                u, rows_u, columns_u, delta, rows_delta, columns_delta, z, rows_z, columns_z,
                B, rows_B, columns_B, C, rows_C, columns_C, rates, skip, bias, row_state,
                out, rows_out, state, kept, step_kept, scratch, length, groups, blocks,
            ) = load_arguments(arguments, 28)  # fmt: skip
            dts, dtus, ys, gates = scratch, scratch + area, scratch + 2 * area, scratch + 3 * area
            tile_u, tile_delta, tile_z = scratch + 4 * area, scratch + 5 * area, scratch + 6 * area
            tile_B, row_B = scratch + 7 * area, groups * group * FLOAT
            tile_C = tile_B + TILE * row_B
            for tile_and_block in range((length + TILE - 1) // TILE * blocks):
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
                Bs, step_B, Cs, step_C = B, rows_B, C, rows_C
                for n in range(groups * group - half, -1, -half):
                    Bs, step_B, _, _ = tile_rows(
                        B + n * columns_B, rows_B, columns_B, first, shift, tile_B + n * FLOAT, row_B,
                        block == 0, half,
                    )  # fmt: skip
                    Cs, step_C, _, _ = tile_rows(
                        C + n * columns_C, rows_C, columns_C, first, shift, tile_C + n * FLOAT, row_B,
                        block == 0, half,
                    )  # fmt: skip
                whole = count - count % ABREAST
                for i in range(0, whole, ABREAST):
                    prepare_tokens(
                        deltas + i * row_delta, row_delta, bias + x, is_softplus, us + i * row_u, row_u,
                        skip + x, zs + i * row_z, row_z, gated, scratch + i * vector, area, ABREAST, width,
                    )  # fmt: skip
                for i in range(whole, count):
                    prepare_tokens(
                        deltas + i * row_delta, row_delta, bias + x, is_softplus, us + i * row_u, row_u,
                        skip + x, zs + i * row_z, row_z, gated, scratch + i * vector, area, 1, width,
                    )  # fmt: skip
                for g in range(groups):
                    at, n = g * group * row_state + x, g * group * FLOAT
                    h = load_rows(state + at, row_state, width, group)
                    if kept != 0:
                        store_rows(kept + tile * step_kept + at, row_state, h)
                    A = load_rows(rates + at, row_state, width, group)
                    for i in range(count):
                        o = i * vector
                        # the next tile, line by line: all at once would wait for each other
                        prefetch(next_u + i * step_u, 0)
                        prefetch(next_delta + i * step_delta, 0)
                        prefetch(next_z + i * step_z, 0)
                        prefetch(out + (first + i + TILE) * rows_out + x, 1)
                        h = advance(
                            h, A, dts + o, dtus + o, ys + o, Bs + i * step_B + n, Cs + i * step_C + n, width
                        )
                    store_rows(state + at, row_state, h)
                for i in range(count):
                    o = i * vector
                    finish_token(out + (first + i) * rows_out + x, ys + o, gates + o, gated, width)
            arguments = next_task(table, stamp)

    return forward


@functools.cache
def forward_kernel(width: int, group: int, is_softplus: bool, gated: bool) -> int:
    """Address of the forward kernel for these choices, compiled once or loaded from numba's cache."""
    return keep_kernel(make_forward(width, group, int(is_softplus), int(gated), STAMP))
