"""Triton kernels of the backward scan; see `triton_tokens` for programs, chunks and the order of tokens.

The chain rule is that of `mambamed.ssm.reference`. Three launches, the second being `carry`:

    chunk_adjoints    the adjoint state that each chunk passes to the one before it
    gradients         every chunk, given the adjoint state from the chunk after it, stretch by stretch, last
                      first: u and dt of its tokens (`note_tokens`); from the stored state forwards, the state
                      before each block of UNROLL tokens (`note_states`); then block by block backwards, with
                      the states of one block in registers. What is noted replaces the previous stretch's.

Sums over tokens and channels are partial sums per program, added by torch: no atomics, reproducible bits.
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

UNROLL = 4  # as many states of a block as fit into registers with the rest


@triton.jit(do_not_specialize=COUNTS)
def chunk_adjoints(
    grad, grad_b, grad_l, delta, delta_s, delta_b, delta_l, C, C_s, C_b, C_l, z, z_b, z_l,
    A2, bias, dt_weight, states, sums, L, D, N: tl.constexpr, K, T, blocks, batch, sides, reverse,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    RANK: tl.constexpr,
):  # fmt: skip
    """Adjoint state of each chunk into `states (S, B, K, N, D)`, its sum of dt into `sums (S, B, K, D)`."""
    block, chunk, entry, side = program(blocks, K, batch)
    begin = chunk * T
    count = tl.minimum(T, L - begin)
    d, d_there, d_until = numbered(block * BLOCK, D, count, BLOCK)
    n, n_there, n_until = numbered(0, N, count, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=True)
    turns = tl.cdiv(count, UNROLL)
    turned = reverse + side
    decay_rate = tl.load(A2 + side * N * D + tile, mask=tile_there, other=0.0)
    shift = channel_numbers(bias, side * D + d, d_there, BLOCK)
    weight = step_weight(dt_weight, side * RANK * D + d, d_there, D, RANK, BY_CHANNEL=True)
    grad_base, grad_step = sequence(grad, grad_b, grad_l, entry, d, begin, count, turned)
    delta_base, delta_step, delta_until = step_rows(
        delta + side * delta_s, delta_b, delta_l, entry, d, d_until, begin, count, turned, RANK
    )
    C_base, C_step = sequence(C + side * C_s, C_b, C_l, entry, n, begin, count, turned)
    sent = tl.zeros([STATES, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for turn in range(0, turns):
        first = (turns - 1 - turn) * UNROLL
        dys = rows(grad_base, grad_step, first, d_until, UNROLL)
        raw = rows(delta_base, delta_step, first, delta_until, UNROLL)
        dts = step_sizes(raw, first, d_until, weight, shift, SOFTPLUS, RANK, UNROLL)
        if z is not None:
            z_base, z_step = sequence(z, z_b, z_l, entry, d, begin, count, turned)
            dys = gated(dys, rows(z_base, z_step, first, d_until, UNROLL), UNROLL)
        for i in tl.static_range(UNROLL - 1, -1, -1):
            at = first + i
            reading = tl.load(C_base + at * C_step, mask=at < n_until, other=0.0).to(tl.float32)
            sent = (sent + reading[:, None] * dys[i][None, :]) * tl.exp2(dts[i][None, :] * decay_rate)
            total += dts[i]
    cell = (side * batch + entry) * K + chunk
    tl.store(states + cell * N * D + tile, sent, mask=tile_there)
    tl.store(sums + cell * D + d, total, mask=d_there)


@triton.jit
def note_tokens(
    noted_u, noted_dt, D, u_base, u_step, delta_base, delta_step, first, left, until, delta_until, since,
    taps, tap_shift, weight, shift,
    SOFTPLUS: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """u (with WIDTH) and dt of the `left` tokens of a stretch that begins at `first`."""
    for turn in range(0, tl.cdiv(left, UNROLL)):
        at = first + turn * UNROLL
        raw = rows(delta_base, delta_step, at, delta_until, UNROLL)
        dts = step_sizes(raw, at, until, weight, shift, SOFTPLUS, RANK, UNROLL)
        for i in tl.static_range(UNROLL):
            tl.store(noted_dt + (turn * UNROLL + i) * D, dts[i], mask=at + i < until)
        if WIDTH > 0:
            us = scanned_rows(u_base, u_step, at, until, since, taps, tap_shift, WIDTH, UNROLL)
            for i in tl.static_range(UNROLL):
                tl.store(noted_u + (turn * UNROLL + i) * D, us[i], mask=at + i < until)


@triton.jit
def note_states(
    h, noted, tile, tile_there, u_base, u_step, dt_base, D, B_base, B_step, decay_rate, turns, d_until,
    n_until, states_size, UNROLL: tl.constexpr,
):  # fmt: skip
    """Run from state `h`, storing the state before each of `turns` blocks of UNROLL tokens in `noted`."""
    for turn in range(0, turns - 1):
        tl.store(noted + turn * states_size + tile, h, mask=tile_there)
        us = rows(u_base, u_step, turn * UNROLL, d_until, UNROLL)
        dts = rows(dt_base, D, turn * UNROLL, d_until, UNROLL)
        for i in tl.static_range(UNROLL):
            at = turn * UNROLL + i
            entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
            h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
    tl.store(noted + (turns - 1) * states_size + tile, h, mask=tile_there)


@triton.jit(do_not_specialize=COUNTS)
def gradients(
    grad, grad_b, grad_l, u, u_b, u_l, delta, delta_s, delta_b, delta_l, B, B_s, B_b, B_l, C, C_s, C_b, C_l,
    z, z_b, z_l, dz, dz_b, dz_l, A2, skip, bias, taps, tap_bias, dt_weight, states, arriving, noted,
    noted_rows, du, ddelta, dA, dD, dbias, dB, dC, partial_l,
    L, D, N: tl.constexpr, K, T, blocks, batch, sides, reverse, side,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    WIDTH: tl.constexpr, RANK: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk of one side, given the states before its stretches and `arriving` after it.

    `states (S, B, L / STRETCH, N, D)`, where STRETCH divides T; `arriving (S, B, K, N, D)`. Results: `du
    (S, B, L, D)`; `ddelta (B, L, D)` of this side, i.e. of the step sizes before softplus; `dz (B, L, D)`, to
    which side 1 adds. Partial sums: `dA (S, B, K, N, D)`, `dD, dbias (S, B, K, D)`; in rows of `partial_l`
    numbers, `dB, dC (blocks, S, B, L, N)`. Scratch: `noted (B, K, STRETCH / UNROLL, N, D)`, `noted_rows
    (2, B, K, STRETCH, D)`.
    """
    block, chunk, entry, _ = program(blocks, K, batch)
    begin = chunk * T
    count = tl.minimum(T, L - begin)
    d, d_there, d_until = numbered(block * BLOCK, D, count, BLOCK)
    n, n_there, _ = numbered(0, N, count, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=False)
    length, states_size, stretch_size = tl.cast(L, tl.int64), tl.cast(N * D, tl.int64), STRETCH * D
    noted += (entry * K + chunk) * (STRETCH // UNROLL) * states_size
    noted_u = noted_rows + (entry * K + chunk) * stretch_size
    noted_dt = noted_u + tl.cast(batch * K, tl.int64) * stretch_size
    stretches = tl.cdiv(count, STRETCH)
    turned = reverse + side
    row = side * batch + entry
    cell = row * K + chunk
    decay_rate = tl.load(A2 + side * N * D + tile, mask=tile_there, other=0.0)
    through = channel_numbers(skip, side * D + d, d_there, BLOCK)
    since = tl.where(d_there, -tl.where(turned > 0, L - begin - count, begin), 0)
    u_base, u_step = sequence(u, u_b, u_l, entry, d, begin, count, turned)
    delta_base, delta_step, delta_until = step_rows(
        delta + side * delta_s, delta_b, delta_l, entry, d, d_until, begin, count, turned, RANK
    )
    B_base, B_step = sequence(B + side * B_s, B_b, B_l, entry, n, begin, count, turned)
    C_base, C_step = sequence(C + side * C_s, C_b, C_l, entry, n, begin, count, turned)
    grad_base, grad_step = sequence(grad, grad_b, grad_l, entry, d, begin, count, turned)
    if z is not None:
        z_base, z_step = sequence(z, z_b, z_l, entry, d, begin, count, turned)
        dz_base, dz_step = sequence(dz, dz_b, dz_l, entry, d, begin, count, turned)
    du_base, du_step = sequence(du, length * D, D, row, d, begin, count, turned)
    partial = (block * sides * batch + row) * length * partial_l
    dB_base, partial_step = sequence(dB + partial, 0, partial_l, 0, n, begin, count, turned)
    dC_base, partial_step = sequence(dC + partial, 0, partial_l, 0, n, begin, count, turned)
    ddelta_base, ddelta_step = sequence(ddelta, length * D, D, entry, d, begin, count, turned)
    states_at = states + (row * tl.cdiv(L, STRETCH) + begin // STRETCH) * states_size
    g = tl.load(arriving + cell * states_size + tile, mask=tile_there, other=0.0)
    dA_sum = tl.zeros([STATES, BLOCK], tl.float32)
    dD_sum, dbias_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for done in range(0, stretches):
        lead = (stretches - 1 - done) * STRETCH
        left = tl.minimum(STRETCH, count - lead)
        turns = tl.cdiv(left, UNROLL)
        d_left, n_left = tl.where(d_there, left, 0), tl.where(n_there, left, 0)
        tl.debug_barrier()  # until all threads have read what others noted
        note_tokens(
            noted_u + d, noted_dt + d, D, u_base, u_step, delta_base, delta_step, lead, left, d_until,
            delta_until, since, tap_rows(taps, side * WIDTH * D + d, d_there, D, BLOCK, WIDTH),
            channel_numbers(tap_bias, side * D + d, d_there, BLOCK),
            step_weight(dt_weight, side * RANK * D + d, d_there, D, RANK, BY_CHANNEL=True),
            channel_numbers(bias, side * D + d, d_there, BLOCK), SOFTPLUS, WIDTH, RANK, UNROLL,
        )  # fmt: skip
        tl.debug_barrier()  # until all threads have stored
        if WIDTH > 0:
            us_at, us_step = noted_u + d, D
        else:
            us_at, us_step = u_base + lead * u_step, u_step
        dts_at = noted_dt + d
        Bs_at, Cs_at = B_base + lead * B_step, C_base + lead * C_step
        h = tl.load(states_at + lead // STRETCH * states_size + tile, mask=tile_there, other=0.0)
        note_states(
            h, noted, tile, tile_there, us_at, us_step, dts_at, D, Bs_at, B_step, decay_rate, turns,
            d_left, n_left, states_size, UNROLL,
        )  # fmt: skip
        tl.debug_barrier()
        for turn in range(0, turns):
            first = (turns - 1 - turn) * UNROLL
            us = rows(us_at, us_step, first, d_left, UNROLL)
            dts = rows(dts_at, D, first, d_left, UNROLL)
            h = tl.load(noted + (turns - 1 - turn) * states_size + tile, mask=tile_there, other=0.0)
            before = ()
            for i in tl.static_range(UNROLL):
                before = before + (h,)
                at = first + i
                entering = tl.load(Bs_at + at * B_step, mask=at < n_left, other=0.0).to(tl.float32)
                pushed = dts[i] * us[i]
                h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * pushed[None, :]
            for i in tl.static_range(UNROLL - 1, -1, -1):
                at = first + i
                there = lead + at  # in the chunk
                here, n_here = at < d_left, at < n_left
                entering = tl.load(Bs_at + at * B_step, mask=n_here, other=0.0).to(tl.float32)
                reading = tl.load(Cs_at + at * C_step, mask=n_here, other=0.0).to(tl.float32)
                # loaded again, from the cache, instead of kept: registers are scarce here
                u_row = tl.load(us_at + at * us_step, mask=here, other=0.0).to(tl.float32)
                dt_row = tl.load(dts_at + at * D, mask=here, other=0.0)
                dy_row = tl.load(grad_base + there * grad_step, mask=here, other=0.0).to(tl.float32)
                pushed = dt_row * u_row
                decay = tl.exp2(dt_row[None, :] * decay_rate)
                h = decay * before[i] + entering[:, None] * pushed[None, :]
                if z is not None:
                    gate_in = tl.load(z_base + there * z_step, mask=here, other=0.0).to(tl.float32)
                    gate = 1.0 / (1.0 + tl.exp(-gate_in))
                    y = tl.sum(h * reading[:, None], axis=0) + through * u_row
                    dz_at = dz_base + there * dz_step
                    gate_grad = tl.load(dz_at, mask=there < tl.where(side > 0, d_until, 0), other=0.0)
                    gate_grad += dy_row * y * gate * (1.0 + gate_in * (1.0 - gate))
                    tl.store(dz_at, gate_grad, mask=here)
                    dy_row *= gate_in * gate
                g += reading[:, None] * dy_row[None, :]
                dC_row = tl.sum(h * dy_row[None, :], axis=1)
                dB_row = tl.sum(g * pushed[None, :], axis=1)
                tl.store(dC_base + there * partial_step, dC_row, mask=n_here)
                tl.store(dB_base + there * partial_step, dB_row, mask=n_here)
                g_B = tl.sum(g * entering[:, None], axis=0)
                g *= decay
                decayed = g * before[i]
                ddt = g_B * u_row + tl.sum(decayed * decay_rate, axis=0) * 0.6931471805599453
                dA_sum += decayed * dt_row[None, :]
                if SOFTPLUS:
                    # sigmoid(x) = 1 - exp(-softplus(x)), by its series where the difference loses digits
                    series = dt_row * (1.0 - dt_row * (0.5 - dt_row * (1.0 / 6.0 - dt_row * (1.0 / 24.0))))
                    ddt *= tl.where(dt_row < 0.02, series, 1.0 - tl.exp(-dt_row))
                dD_sum += dy_row * u_row
                dbias_sum += ddt
                du_row = dt_row * g_B + through * dy_row
                tl.store(du_base + there * du_step, du_row, mask=here)
                tl.store(ddelta_base + there * ddelta_step, ddt, mask=here)
    tl.store(dA + cell * N * D + tile, dA_sum, mask=tile_there)
    tl.store(dD + cell * D + d, dD_sum, mask=d_there)
    tl.store(dbias + cell * D + d, dbias_sum, mask=d_there)
