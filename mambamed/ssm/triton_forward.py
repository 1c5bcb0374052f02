"""Triton kernels of the forward scan, and the pieces that the backward kernels share.

The sequence is divided into K chunks of T tokens, numbered in the order of the scan. Three launches:

    chunk_states    the contribution of each chunk to the state (starting from zero), and its sum of dt
    carry           the state before each chunk: a loop over the K chunks, exp(A sum dt) being a chunk's decay
    outputs         every chunk again, from its true initial state, with the outputs

A program processes one chunk and BLOCK channels of one batch entry; its state is a tile `(STATES, BLOCK)`
(see `tile_of`), in registers from the first token to the last. Tokens are processed in blocks of
UNROLL whose loads are issued together. Beyond the end of the sequence dt is 0: nothing decays or enters.

Everything is float32. A is multiplied by log2(e), so that exp(dt A) is one exp2. Token numbers have 32 bits,
addresses 64. `until` is the number of tokens for an existing channel or state, 0 for one that pads its block:
one comparison masks both (`block & scalar` masks fail in Triton's interpreter). Calls of other jit functions
cost milliseconds in the interpreter: the innermost loops have few.
"""

# Triton's language has no unpacking inside a tuple
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

UNROLL = 8
LANE_STATES: tl.constexpr = tl.constexpr(16)  # states of a channel that one lane holds, at most


@triton.jit
def program(blocks, K):
    """(channel block, chunk, batch entry) of this program; 64 bits if they are multiplied by strides."""
    index = tl.program_id(0)
    return index % blocks, (index // blocks) % K, (index // (blocks * K)).to(tl.int64)


@triton.jit
def numbered(first, size, L, WIDTH: tl.constexpr):
    """WIDTH channels or states from `first` on, which of them exist, and their `until`."""
    x = first + tl.arange(0, WIDTH)
    return x, x < size, tl.where(x < size, L, 0)


@triton.jit
def tile_of(n, d, n_there, d_there, D, BY_CHANNEL: tl.constexpr):
    """Offsets `(STATES, BLOCK)` into an `(N, D)` matrix, and which of them exist.

    Triton lays out a tile for loads at these offsets. If it knows that channels are contiguous, a lane holds
    several channels and a part of their states, and each sum over states is exchanged between lanes.
    `BY_CHANNEL` hides it for up to `LANE_STATES` states: a lane then holds all states of a channel, which
    suits the forward pass; loads still are of 128 bytes. The backward pass also sums over channels.
    """
    offsets = n[:, None] * D + d[None, :]
    if BY_CHANNEL and n.shape[0] <= LANE_STATES:
        offsets = tl.max_contiguous(tl.multiple_of(offsets, [1, 1]), [1, 1])
    return offsets, n_there[:, None] & d_there[None, :]


@triton.jit
def sequence(pointer, x_b, x_x, x_l, entry, x, L, REVERSE: tl.constexpr):
    """Address of the scan's first token for channels or states `x`, and stride to the next ones."""
    base = pointer + entry * x_b + x.to(tl.int64) * x_x
    stride = tl.cast(x_l, tl.int64)
    if REVERSE:
        base += (L - 1) * stride
        stride = -stride
    return base, stride


@triton.jit
def own_rows(entry, x, X, L, REVERSE: tl.constexpr):
    """The same, as offsets into a contiguous `(B, L, X)` tensor."""
    offset, stride = entry * L * X + x, tl.cast(X, tl.int64)
    if REVERSE:
        offset += (L - 1) * stride
        stride = -stride
    return offset, stride


@triton.jit
def rows(base, stride, first, until, UNROLL: tl.constexpr):
    """The numbers of UNROLL tokens as float32, 0 if none exist: loads without mutual dependencies."""
    loaded = ()
    for i in tl.static_range(UNROLL):
        row = tl.load(base + (first + i) * stride, mask=first + i < until, other=0.0)
        loaded = loaded + (row.to(tl.float32),)
    return loaded


@triton.jit
def step_sizes(raw, bias, first, until, SOFTPLUS: tl.constexpr, UNROLL: tl.constexpr):
    """dt of UNROLL tokens from `rows` of delta: 0 beyond the end."""
    sizes = ()
    for i in tl.static_range(UNROLL):
        dt = raw[i] + bias
        if SOFTPLUS:
            # log(1 + e), e = exp(-|x|), by Goldberg: the quotient compensates the rounding of 1 + e
            small = tl.exp(-tl.abs(dt))
            lost = 1.0 + small == 1.0
            quotient = small / tl.where(lost, 1.0, (1.0 + small) - 1.0)
            dt = tl.maximum(dt, 0.0) + tl.where(lost, small, tl.log(1.0 + small) * quotient)
        sizes = sizes + (tl.where(first + i < until, dt, 0.0),)
    return sizes


@triton.jit
def gated(values, gates, UNROLL: tl.constexpr):
    """values silu(gates), token by token."""
    products = ()
    for i in tl.static_range(UNROLL):
        products = products + (values[i] * gates[i] / (1.0 + tl.exp(-gates[i])),)
    return products


@triton.jit
def channel_numbers(pointer, d, d_there, BLOCK: tl.constexpr):
    """One number per channel as float32; zeros without such a vector."""
    numbers = tl.zeros([BLOCK], tl.float32)
    if pointer is not None:
        numbers = tl.load(pointer + d, mask=d_there, other=0.0).to(tl.float32)
    return numbers


@triton.jit
def chunk_states(
    u, u_b, u_d, u_l, delta, delta_b, delta_d, delta_l, B, B_b, B_n, B_l, A2, bias,
    states, sums, L, D, N, K, T, blocks,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Each chunk's state from zero into `states (B, K, N, D)`, its sum of dt into `sums (B, K, D)`."""
    block, chunk, entry = program(blocks, K)
    d, d_there, d_until = numbered(block * BLOCK, D, L, BLOCK)
    n, n_there, n_until = numbered(0, N, L, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=True)
    decay_rate = tl.load(A2 + tile, mask=tile_there, other=0.0)
    shift = channel_numbers(bias, d, d_there, BLOCK)
    u_base, u_step = sequence(u, u_b, u_d, u_l, entry, d, L, REVERSE)
    delta_base, delta_step = sequence(delta, delta_b, delta_d, delta_l, entry, d, L, REVERSE)
    B_base, B_step = sequence(B, B_b, B_n, B_l, entry, n, L, REVERSE)
    h = tl.zeros([STATES, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    start = chunk * T
    for first in range(start, tl.minimum(start + T, L), UNROLL):
        us = rows(u_base, u_step, first, d_until, UNROLL)
        raw = rows(delta_base, delta_step, first, d_until, UNROLL)
        dts = step_sizes(raw, shift, first, d_until, SOFTPLUS, UNROLL)
        for i in tl.static_range(UNROLL):
            at = first + i
            entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
            h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
            total += dts[i]
    cell = entry * K + chunk
    tl.store(states + cell * N * D + tile, h, mask=tile_there)
    tl.store(sums + cell * D + d, total, mask=d_there)


@triton.jit
def carry(
    states, sums, A2, D, N, K, columns,
    BACKWARD: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """In place: the contribution of each chunk, `states (B, K, N, D)`, becomes the state that arrives at it.

    From the first chunk to the last; with BACKWARD from the last to the first, for the adjoint state.
    """
    index = tl.program_id(0).to(tl.int64)
    entry = index // columns
    column = (index % columns) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    there = column < N * D
    until = tl.where(there, K, 0)
    decay_rate = tl.load(A2 + column, mask=there, other=0.0)
    states += entry * K * N * D + column
    sums += entry * K * D + column % D
    h = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, K, UNROLL):
        added, decays = (), ()
        for i in tl.static_range(UNROLL):
            chunk = column * 0 + (K - 1 - first - i if BACKWARD else first + i)
            here = first + i < until
            added = added + (tl.load(states + chunk * N * D, mask=here, other=0.0),)
            decays = decays + (tl.exp2(tl.load(sums + chunk * D, mask=here, other=0.0) * decay_rate),)
        for i in tl.static_range(UNROLL):
            chunk = column * 0 + (K - 1 - first - i if BACKWARD else first + i)
            here = first + i < until
            tl.store(states + chunk * N * D, h, mask=here)
            h = decays[i] * h + added[i]


@triton.jit
def outputs(
    u, u_b, u_d, u_l, delta, delta_b, delta_d, delta_l, B, B_b, B_n, B_l, C, C_b, C_n, C_l,
    z, z_b, z_d, z_l, A2, skip, bias, states, kept, out, L, D, N, K, T, blocks,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr, STRETCH: tl.constexpr,
):  # fmt: skip
    """`out (B, L, D)` of every chunk, from the state before it in `states (B, K, N, D)`.

    Into `kept (B, L / STRETCH, N, D)`, if not None, the states before each stretch of STRETCH tokens.
    """
    block, chunk, entry = program(blocks, K)
    d, d_there, d_until = numbered(block * BLOCK, D, L, BLOCK)
    n, n_there, n_until = numbered(0, N, L, STATES)
    tile, tile_there = tile_of(n, d, n_there, d_there, D, BY_CHANNEL=True)
    decay_rate = tl.load(A2 + tile, mask=tile_there, other=0.0)
    shift = channel_numbers(bias, d, d_there, BLOCK)
    through = channel_numbers(skip, d, d_there, BLOCK)
    u_base, u_step = sequence(u, u_b, u_d, u_l, entry, d, L, REVERSE)
    delta_base, delta_step = sequence(delta, delta_b, delta_d, delta_l, entry, d, L, REVERSE)
    B_base, B_step = sequence(B, B_b, B_n, B_l, entry, n, L, REVERSE)
    C_base, C_step = sequence(C, C_b, C_n, C_l, entry, n, L, REVERSE)
    own, own_step = own_rows(entry, d, D, L, REVERSE)
    h = tl.load(states + (entry * K + chunk) * N * D + tile, mask=tile_there, other=0.0)
    start = chunk * T
    for first in range(start, tl.minimum(start + T, L), UNROLL):
        if kept is not None:  # noqa: SIM102  decided when the kernel is compiled
            if first % STRETCH == 0:
                stretch = entry * tl.cdiv(L, STRETCH) + first // STRETCH
                tl.store(kept + stretch * N * D + tile, h, mask=tile_there)
        us = rows(u_base, u_step, first, d_until, UNROLL)
        raw = rows(delta_base, delta_step, first, d_until, UNROLL)
        dts = step_sizes(raw, shift, first, d_until, SOFTPLUS, UNROLL)
        ys = ()
        for i in tl.static_range(UNROLL):
            at = first + i
            entering = tl.load(B_base + at * B_step, mask=at < n_until, other=0.0).to(tl.float32)
            reading = tl.load(C_base + at * C_step, mask=at < n_until, other=0.0).to(tl.float32)
            h = tl.exp2(dts[i][None, :] * decay_rate) * h + entering[:, None] * (dts[i] * us[i])[None, :]
            ys = ys + (tl.sum(h * reading[:, None], axis=0) + through * us[i],)
        if z is not None:
            z_base, z_step = sequence(z, z_b, z_d, z_l, entry, d, L, REVERSE)
            ys = gated(ys, rows(z_base, z_step, first, d_until, UNROLL), UNROLL)
        for i in tl.static_range(UNROLL):
            tl.store(out + own + (first + i) * own_step, ys[i], mask=first + i < d_until)
