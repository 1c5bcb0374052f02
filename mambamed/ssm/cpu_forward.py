"""The forward kernel of the `cpu` backend.

Vectors run over channels (tensors are channel-last: W adjacent channels are W adjacent numbers), the states
of these channels are kept in registers, B and C are broadcast. The sequence is processed in tiles of `TILE`
tokens; within a tile, values shared by all states (step size, input, gate) are computed once into a scratch
area, then the states are processed in groups that fit into the registers. All arguments are addresses and
strides in bytes; `rows_x` is the stride from one token of x to the next, negative if the sequence is read
backwards. Channel blocks are the inner loop, so that whole rows of the tensors are read.
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
from mambamed.ssm.simd import STAMP, Value, emitter, exp2, fma, sigmoid, softplus

TILE = 16  # tokens between two stored states
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
    vector = width * FLOAT
    area = TILE * vector

    @compile_kernel
    def forward(table):
        """`state` is updated to the state after the last token; `kept` 0 stores nothing."""
        arguments = next_task(table, stamp)
        while arguments != 0:
            (
                u, rows_u, delta, rows_delta, z, rows_z, B, rows_B, C, rows_C, rates, skip, bias, row_state,
                out, rows_out, state, kept, step_kept, scratch, length, groups, blocks,
            ) = load_arguments(arguments, 23)  # fmt: skip
            dts, dtus, ys, gates = scratch, scratch + area, scratch + 2 * area, scratch + 3 * area
            for tile_and_block in range((length + TILE - 1) // TILE * blocks):
                tile = tile_and_block // blocks
                x = (tile_and_block - tile * blocks) * vector
                first = tile * TILE
                count = min(TILE, length - first)
                whole = count - count % ABREAST
                for i in range(0, whole, ABREAST):
                    t, o = first + i, i * vector
                    prepare_tokens(
                        delta + t * rows_delta + x, rows_delta, bias + x, is_softplus, u + t * rows_u + x,
                        rows_u, skip + x, z + t * rows_z + x, rows_z, gated, scratch + o, area, ABREAST,
                        width,
                    )  # fmt: skip
                for i in range(whole, count):
                    t, o = first + i, i * vector
                    prepare_tokens(
                        delta + t * rows_delta + x, rows_delta, bias + x, is_softplus, u + t * rows_u + x,
                        rows_u, skip + x, z + t * rows_z + x, rows_z, gated, scratch + o, area, 1, width,
                    )  # fmt: skip
                for g in range(groups):
                    at, n = g * group * row_state + x, g * group * FLOAT
                    h = load_rows(state + at, row_state, width, group)
                    if kept != 0:
                        store_rows(kept + tile * step_kept + at, row_state, h)
                    A = load_rows(rates + at, row_state, width, group)
                    for i in range(count):
                        t, o = first + i, i * vector
                        # the next tile, line by line: all at once would wait for each other
                        later = t + TILE
                        prefetch(u + later * rows_u + x, 0)
                        prefetch(delta + later * rows_delta + x, 0)
                        prefetch(z + later * rows_z + x, 0)
                        prefetch(out + later * rows_out + x, 1)
                        h = advance(
                            h, A, dts + o, dtus + o, ys + o, B + t * rows_B + n, C + t * rows_C + n, width
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
