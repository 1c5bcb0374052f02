"""Triton kernels of the forward scan; see `triton_tokens` for programs, chunks and the order of tokens.

    chunk_states    the contribution of each chunk to the state (starting from zero), and its sum of dt
    carry           the state before each chunk (`triton_carry`), exp(A sum dt) being a chunk's decay
    outputs         every chunk again, from its true initial state, with the outputs

The state of a program is a tile `(STATES, BLOCK)` (see `tile_of`), in registers from the first token to the
last. Tokens are processed in blocks of UNROLL whose loads are issued together. Beyond the end of the sequence
dt is 0: nothing decays or enters. Everything is float32; A is multiplied by log2(e), so that exp(dt A) is one
exp2. Token numbers have 32 bits, addresses 64.

With WIDTH and RANK, u and delta are not in memory: u is computed from the input x of the convolution, and dt
from the rows that `dt_weight` multiplies.
"""

# Triton's language has no unpacking inside a tuple
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from mambamed.ssm.triton_tokens import (
    COUNTS,
    channel_numbers,
    gated,
    numbered,
    program,
    rows,
    scanned_rows,
    sequence,
    step_rows,
    step_sizes,
    step_weight,
    tap_rows,
    tile_of,
)

UNROLL = 8


@triton.jit(do_not_specialize=COUNTS)
def chunk_states(
    u, u_b, u_l, delta, delta_s, delta_b, delta_l, B, B_s, B_b, B_l, A2, bias, taps, tap_bias, dt_weight,
    states, sums, L, D, N: tl.constexpr, K, T, blocks, batch, sides, reverse,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    WIDTH: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Each chunk's state from zero into `states (S, B, K, N, D)`, its sum of dt into `sums (S, B, K, D)`."""
    block, chunk, entry, side = program(blocks, K, batch)
    begin = chunk * T
    count = tl.minimum(T, L - begin)
    d, d_there, d_until = numbered(block * BLOCK, D, count, BLOCK)
    n, n_there, n_until = numbered(0, N, count, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=True)
    turned = reverse + side
    decay_rate = tl.load(A2 + side * N * D + tile, mask=tile_there, other=0.0)
    shift = channel_numbers(bias, side * D + d, d_there, BLOCK)
    through_taps = tap_rows(taps, side * WIDTH * D + d, d_there, D, BLOCK, WIDTH)
    tap_shift = channel_numbers(tap_bias, side * D + d, d_there, BLOCK)
    weight = step_weight(dt_weight, side * RANK * D + d, d_there, D, RANK, BY_CHANNEL=True)
    since = tl.where(d_there, -tl.where(turned > 0, L - begin - count, begin), 0)
    u_base, u_step = sequence(u, u_b, u_l, entry, d, begin, count, turned)
    delta_base, delta_step, delta_until = step_rows(
        delta + side * delta_s, delta_b, delta_l, entry, d, d_until, begin, count, turned, RANK
    )
    B_base, B_step = sequence(B + side * B_s, B_b, B_l, entry, n, begin, count, turned)
    h = tl.zeros([STATES, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, UNROLL):
        us = scanned_rows(u_base, u_step, first, d_until, since, through_taps, tap_shift, WIDTH, UNROLL)
        raw = rows(delta_base, delta_step, first, delta_until, UNROLL)
        dts = step_sizes(raw, first, d_until, weight, shift, SOFTPLUS, RANK, UNROLL)
        for i in tl.static_range(UNROLL):
            at = first + i
            entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
            h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
            total += dts[i]
    cell = (side * batch + entry) * K + chunk
    tl.store(states + cell * N * D + tile, h, mask=tile_there)
    tl.store(sums + cell * D + d, total, mask=d_there)


@triton.jit(do_not_specialize=COUNTS)
def outputs(
    u, u_b, u_l, delta, delta_s, delta_b, delta_l, B, B_s, B_b, B_l, C, C_s, C_b, C_l, z, z_b, z_l,
    A2, skip, bias, taps, tap_bias, dt_weight, states, kept, out,
    L, D, N: tl.constexpr, K, T, blocks, batch, sides, reverse, keep,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    WIDTH: tl.constexpr, RANK: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    """`out (B, L, D)` of every chunk, the sum over the sides, from the states in `states (S, B, K, N, D)`.

    Into `kept (S, B, L / STRETCH, N, D)`, if `keep`, the states before each stretch of STRETCH tokens.
    """
    block, chunk, entry, _ = program(blocks, K, batch)
    begin = chunk * T
    count = tl.minimum(T, L - begin)
    d, d_there, d_until = numbered(block * BLOCK, D, count, BLOCK)
    n, n_there, n_until = numbered(0, N, count, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=True)
    for side in tl.range(0, sides, disable_licm=True):
        turned = reverse + side
        decay_rate = tl.load(A2 + side * N * D + tile, mask=tile_there, other=0.0)
        shift = channel_numbers(bias, side * D + d, d_there, BLOCK)
        through = channel_numbers(skip, side * D + d, d_there, BLOCK)
        through_taps = tap_rows(taps, side * WIDTH * D + d, d_there, D, BLOCK, WIDTH)
        tap_shift = channel_numbers(tap_bias, side * D + d, d_there, BLOCK)
        weight = step_weight(dt_weight, side * RANK * D + d, d_there, D, RANK, BY_CHANNEL=True)
        since = tl.where(d_there, -tl.where(turned > 0, L - begin - count, begin), 0)
        u_base, u_step = sequence(u, u_b, u_l, entry, d, begin, count, turned)
        delta_base, delta_step, delta_until = step_rows(
            delta + side * delta_s, delta_b, delta_l, entry, d, d_until, begin, count, turned, RANK
        )
        B_base, B_step = sequence(B + side * B_s, B_b, B_l, entry, n, begin, count, turned)
        C_base, C_step = sequence(C + side * C_s, C_b, C_l, entry, n, begin, count, turned)
        out_base, out_step = sequence(out, tl.cast(L, tl.int64) * D, D, entry, d, begin, count, turned)
        stored = tl.where(side > 0, d_until, 0)
        row = side * batch + entry
        h = tl.load(states + (row * K + chunk) * N * D + tile, mask=tile_there, other=0.0)
        stretch = row * tl.cdiv(L, STRETCH) + begin // STRETCH
        for first in range(0, count, UNROLL):
            if (keep > 0) & (first % STRETCH == 0):
                tl.store(kept + (stretch + first // STRETCH) * N * D + tile, h, mask=tile_there)
            us = scanned_rows(u_base, u_step, first, d_until, since, through_taps, tap_shift, WIDTH, UNROLL)
            raw = rows(delta_base, delta_step, first, delta_until, UNROLL)
            dts = step_sizes(raw, first, d_until, weight, shift, SOFTPLUS, RANK, UNROLL)
            ys = ()
            for i in tl.static_range(UNROLL):
                at = first + i
                entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
                reading = tl.load(C_base + at * C_step, mask=at < n_until, other=0.0).to(tl.float32)
                h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
                ys = ys + (tl.sum(h * reading[:, None], axis=0) + through * us[i],)
            if z is not None:
                z_base, z_step = sequence(z, z_b, z_l, entry, d, begin, count, turned)
                ys = gated(ys, rows(z_base, z_step, first, d_until, UNROLL), UNROLL)
            earlier = rows(out_base, out_step, first, stored, UNROLL)
            for i in tl.static_range(UNROLL):
                at = first + i
                tl.store(out_base + at * out_step, earlier[i] + ys[i], mask=at < d_until)
        tl.debug_barrier()  # until all threads have stored what the next side reads
