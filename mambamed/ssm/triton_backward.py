"""Triton kernels of the backward scan; see `triton_forward` for chunks, tiles and the order of tokens.

The chain rule is that of `mambamed.ssm.reference`. Three launches, the second being `carry`:

    chunk_adjoints    the adjoint state that each chunk passes to the one before it; dt and the gated output
                      gradient are stored here once, as the last kernel reads them with every lane
    gradients         every chunk, given the adjoint state from the chunk after it, stretch by stretch, last
                      first: from the stored state forwards, storing the state before each block of UNROLL
                      tokens in place of those of the previous stretch; then block by block backwards, with
                      the states of one block in registers

Sums over tokens and channels are partial sums per program, added by torch: no atomics, reproducible bits.
"""

# Triton's language has no unpacking inside a tuple
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from mambamed.ssm.triton_forward import (
    channel_numbers,
    gated,
    numbered,
    own_rows,
    program,
    rows,
    sequence,
    step_sizes,
    tile_of,
)

UNROLL = 4  # as many states of a block as fit into registers with the rest


@triton.jit
def chunk_adjoints(
    grad, grad_b, grad_d, grad_l, delta, delta_b, delta_d, delta_l, C, C_b, C_n, C_l, z, z_b, z_d, z_l,
    A2, bias, states, sums, dt, dy, L, D, N, K, T, blocks,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Adjoint state of each chunk into `states (B, K, N, D)`, its sum of dt into `sums (B, K, D)`.

    Also `dt (B, L, D)` and, if there is a gate, `dy (B, L, D)`, the gradient of the ungated output.
    """
    block, chunk, entry = program(blocks, K)
    d, d_there, d_until = numbered(block * BLOCK, D, L, BLOCK)
    n, n_there, n_until = numbered(0, N, L, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=False)
    decay_rate = tl.load(A2 + tile, mask=tile_there, other=0.0)
    shift = channel_numbers(bias, d, d_there, BLOCK)
    grad_base, grad_step = sequence(grad, grad_b, grad_d, grad_l, entry, d, L, REVERSE)
    delta_base, delta_step = sequence(delta, delta_b, delta_d, delta_l, entry, d, L, REVERSE)
    C_base, C_step = sequence(C, C_b, C_n, C_l, entry, n, L, REVERSE)
    own, own_step = own_rows(entry, d, D, L, REVERSE)
    sent = tl.zeros([STATES, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    start = chunk * T
    turns = tl.cdiv(tl.minimum(T, L - start), UNROLL)
    for turn in range(0, turns):
        first = start + (turns - 1 - turn) * UNROLL
        dys = rows(grad_base, grad_step, first, d_until, UNROLL)
        raw = rows(delta_base, delta_step, first, d_until, UNROLL)
        dts = step_sizes(raw, shift, first, d_until, SOFTPLUS, UNROLL)
        if z is not None:
            z_base, z_step = sequence(z, z_b, z_d, z_l, entry, d, L, REVERSE)
            dys = gated(dys, rows(z_base, z_step, first, d_until, UNROLL), UNROLL)
        for i in tl.static_range(UNROLL - 1, -1, -1):
            at = first + i
            reading = tl.load(C_base + at * C_step, mask=at < n_until, other=0.0).to(tl.float32)
            sent = (sent + reading[:, None] * dys[i][None, :]) * tl.exp2(dts[i][None, :] * decay_rate)
            total += dts[i]
        for i in tl.static_range(UNROLL):
            tl.store(dt + own + (first + i) * own_step, dts[i], mask=first + i < d_until)
            if z is not None:
                tl.store(dy + own + (first + i) * own_step, dys[i], mask=first + i < d_until)
    cell = entry * K + chunk
    tl.store(states + cell * N * D + tile, sent, mask=tile_there)
    tl.store(sums + cell * D + d, total, mask=d_there)


@triton.jit
def note_states(
    h, noted, tile, tile_there, dt_base, dt_step, u_base, u_step, B_base, B_step, decay_rate, start, turns,
    states_size, d_until, n_until, UNROLL: tl.constexpr,
):  # fmt: skip
    """Run from state `h`, storing the state before each of `turns` blocks of UNROLL tokens in `noted`."""
    for turn in range(0, turns - 1):
        tl.store(noted + turn * states_size + tile, h, mask=tile_there)
        first = start + turn * UNROLL
        us = rows(u_base, u_step, first, d_until, UNROLL)
        dts = rows(dt_base, dt_step, first, d_until, UNROLL)
        for i in tl.static_range(UNROLL):
            at = first + i
            entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
            h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
    tl.store(noted + (turns - 1) * states_size + tile, h, mask=tile_there)


@triton.jit
def gradients(
    grad, grad_b, grad_d, grad_l, dy, dy_b, dy_d, dy_l, u, u_b, u_d, u_l, B, B_b, B_n, B_l, C, C_b, C_n, C_l,
    z, z_b, z_d, z_l, A2, skip, states, arriving, noted, dt, du, ddelta, dz, dA, dB, dC, dD, dbias,
    L, D, N, K, T, blocks,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk, given the states before its stretches and `arriving (B, K, N, D)` after it.

    `states (B, L / STRETCH, N, D)`, where STRETCH is a number of tokens that divides T. `du, ddelta, dz
    (B, L, D)`. Partial sums: `dA (B, K, N, D)`, `dD, dbias (B, K, D)`, `dB, dC (blocks, B, L, N)`. Scratch:
    `noted (B, K, STRETCH / UNROLL, N, D)`.
    """
    block, chunk, entry = program(blocks, K)
    d, d_there, d_until = numbered(block * BLOCK, D, L, BLOCK)
    n, n_there, n_until = numbered(0, N, L, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=False)
    decay_rate = tl.load(A2 + tile, mask=tile_there, other=0.0)
    through = channel_numbers(skip, d, d_there, BLOCK)
    u_base, u_step = sequence(u, u_b, u_d, u_l, entry, d, L, REVERSE)
    B_base, B_step = sequence(B, B_b, B_n, B_l, entry, n, L, REVERSE)
    C_base, C_step = sequence(C, C_b, C_n, C_l, entry, n, L, REVERSE)
    dy_base, dy_step = sequence(dy, dy_b, dy_d, dy_l, entry, d, L, REVERSE)
    grad_base, grad_step = sequence(grad, grad_b, grad_d, grad_l, entry, d, L, REVERSE)
    if z is not None:
        z_base, z_step = sequence(z, z_b, z_d, z_l, entry, d, L, REVERSE)
    own, own_step = own_rows(entry, d, D, L, REVERSE)
    cell = entry * K + chunk
    batch = tl.num_programs(0).to(tl.int64) // (blocks * K)
    partial, partial_step = own_rows(block * batch + entry, n, N, L, REVERSE)
    states_size = tl.cast(N * D, tl.int64)
    noted += cell * (STRETCH // UNROLL) * states_size
    states += entry * tl.cdiv(L, STRETCH) * states_size
    start = chunk * T
    stretches = tl.cdiv(tl.minimum(T, L - start), STRETCH)
    g = tl.load(arriving + cell * states_size + tile, mask=tile_there, other=0.0)
    dA_sum = tl.zeros([STATES, BLOCK], tl.float32)
    dD_sum, dbias_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for done in range(0, stretches):
        begin = start + (stretches - 1 - done) * STRETCH
        turns = tl.cdiv(tl.minimum(STRETCH, L - begin), UNROLL)
        h = tl.load(states + begin // STRETCH * states_size + tile, mask=tile_there, other=0.0)
        tl.debug_barrier()  # until all threads have read what others stored in `noted`
        note_states(
            h, noted, tile, tile_there, dt + own, own_step, u_base, u_step, B_base, B_step, decay_rate,
            begin, turns, states_size, d_until, n_until, UNROLL,
        )  # fmt: skip
        tl.debug_barrier()  # until all threads have stored
        for turn in range(0, turns):
            first = begin + (turns - 1 - turn) * UNROLL
            us = rows(u_base, u_step, first, d_until, UNROLL)
            dts = rows(dt + own, own_step, first, d_until, UNROLL)
            h = tl.load(noted + (turns - 1 - turn) * states_size + tile, mask=tile_there, other=0.0)
            before = ()
            for i in tl.static_range(UNROLL):
                before = before + (h,)
                at = first + i
                entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
                h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
            for i in tl.static_range(UNROLL - 1, -1, -1):
                at = first + i
                here, n_here = at < d_until, at < n_until
                entering = tl.load(B_base + at * B_step, mask=n_here, other=0.0).to(tl.float32)
                reading = tl.load(C_base + at * C_step, mask=n_here, other=0.0).to(tl.float32)
                # loaded again, from the cache, instead of kept: registers are scarce here
                u_row = tl.load(u_base + at * u_step, mask=here, other=0.0).to(tl.float32)
                dt_row = tl.load(dt + own + at * own_step, mask=here, other=0.0)
                dy_row = tl.load(dy_base + at * dy_step, mask=here, other=0.0).to(tl.float32)
                pushed = dt_row * u_row
                decay = tl.exp2(dt_row[None, :] * decay_rate)
                h = decay * before[i] + entering[:, None] * pushed[None, :]
                if z is not None:
                    g_out = tl.load(grad_base + at * grad_step, mask=here, other=0.0).to(tl.float32)
                    gate_in = tl.load(z_base + at * z_step, mask=here, other=0.0).to(tl.float32)
                    gate = 1.0 / (1.0 + tl.exp(-gate_in))
                    y = tl.sum(h * reading[:, None], axis=0) + through * u_row
                    gate_grad = g_out * y * gate * (1.0 + gate_in * (1.0 - gate))
                    tl.store(dz + own + at * own_step, gate_grad, mask=here)
                g += reading[:, None] * dy_row[None, :]
                dC_row = tl.sum(h * dy_row[None, :], axis=1)
                dB_row = tl.sum(g * pushed[None, :], axis=1)
                tl.store(dC + partial + at * partial_step, dC_row, mask=n_here)
                tl.store(dB + partial + at * partial_step, dB_row, mask=n_here)
                g_B = tl.sum(g * entering[:, None], axis=0)
                g *= decay
                decayed = g * before[i]
                ddt = g_B * u_row + tl.sum(decayed * decay_rate, axis=0) * 0.6931471805599453
                dA_sum += decayed * dt_row[None, :]
                if SOFTPLUS:
                    # sigmoid(x) = 1 - exp(-softplus(x)), by its series where the difference would lose digits
                    series = dt_row * (1.0 - dt_row * (0.5 - dt_row * (1.0 / 6.0 - dt_row * (1.0 / 24.0))))
                    ddt *= tl.where(dt_row < 0.02, series, 1.0 - tl.exp(-dt_row))
                dD_sum += dy_row * u_row
                dbias_sum += ddt
                du_row = dt_row * g_B + through * dy_row
                tl.store(du + own + at * own_step, du_row, mask=here)
                tl.store(ddelta + own + at * own_step, ddt, mask=here)
    tl.store(dA + cell * N * D + tile, dA_sum, mask=tile_there)
    tl.store(dD + cell * D + d, dD_sum, mask=d_there)
    tl.store(dbias + cell * D + d, dbias_sum, mask=d_there)
