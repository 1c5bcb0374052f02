"""Pieces that all Triton kernels of the scan share: programs, tokens in the order of the scan, u and dt.

The sequence is divided into K chunks of T tokens. A program processes one chunk and BLOCK channels of one
batch entry for one direction, its side (side 0 runs forwards unless `reverse`, side 1 backwards), or for
several (`sides`) one after the other, of which the second finds what it reads in the cache. Within a chunk,
tokens are numbered from 0 in the order of the scan, and `sequence` gives the address of number 0.

Rows of a sequence are contiguous; all rows, strides and matrices begin at multiples of 16 numbers (see
`mambamed.ssm.triton`), so that no kernel is compiled twice because of an address or a stride. The other
integers are not specialized either (COUNTS).

`until` is the number of tokens for an existing channel or state, 0 for one that pads its block: one
comparison masks both (`block & scalar` masks fail in Triton's interpreter). Calls of other jit functions cost
milliseconds in the interpreter: the innermost loops have few.
"""

# Triton's language has no unpacking inside a tuple
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

LANE_STATES: tl.constexpr = tl.constexpr(16)  # states of a channel that one lane holds, at most
COUNTS = ["L", "K", "T", "blocks", "batch", "sides", "side", "reverse", "keep", "columns", "tiles", "runs"]


@triton.jit
def program(blocks, K, batch):
    """(channel block, chunk, batch entry, side) of this program; 64 bits if it is multiplied by strides."""
    index = tl.program_id(0)
    row = index // (blocks * K)
    return index % blocks, (index // blocks) % K, (row % batch).to(tl.int64), row // batch


@triton.jit
def numbered(first, size, until, WIDTH: tl.constexpr):
    """WIDTH channels or states from `first` on, which of them exist, and their `until`."""
    x = first + tl.arange(0, WIDTH)
    return x, x < size, tl.where(x < size, until, 0)


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
def sequence(pointer, x_b, x_l, entry, x, begin, count, turned):
    """Address of a chunk's token number 0 for channels or states `x`, and the stride to the next token.

    The chunk has `count` tokens from `begin` on; with `turned` the last of them is number 0.
    """
    first = tl.cast(begin + turned * (count - 1), tl.int64)
    return pointer + (entry * x_b + first * x_l) + x, x_l * (1 - 2 * turned)


@triton.jit
def rows(base, stride, first, until, UNROLL: tl.constexpr):
    """The numbers of UNROLL tokens as float32, 0 if none exist: loads without mutual dependencies."""
    loaded = ()
    for i in tl.static_range(UNROLL):
        row = tl.load(base + (first + i) * stride, mask=first + i < until, other=0.0)
        loaded = loaded + (row.to(tl.float32),)
    return loaded


@triton.jit
def tap_rows(taps, d, d_there, D, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """The WIDTH weights of each channel's convolution; the last applies to the token itself."""
    found = ()
    for w in tl.static_range(WIDTH):
        found = found + (tl.load(taps + w * D + d, mask=d_there, other=0.0),)
    return found


@triton.jit
def scanned_rows(base, stride, first, until, since, taps, bias, WIDTH: tl.constexpr, UNROLL: tl.constexpr):
    """u of UNROLL tokens: read as it is, or (WIDTH > 0) silu of the convolution of the rows that are read.

    `since`: number of the first token that exists, at most 0, as the convolution reaches into earlier chunks.
    """
    found = ()
    if WIDTH == 0:
        found = rows(base, stride, first, until, UNROLL)
    else:
        recent = ()
        for i in tl.static_range(WIDTH - 1 + UNROLL):
            at = first + i - (WIDTH - 1)
            row = tl.load(base + at * stride, mask=(at >= since) & (at < until), other=0.0)
            recent = recent + (row.to(tl.float32),)
        for i in tl.static_range(UNROLL):
            sums = bias
            for w in tl.static_range(WIDTH):
                sums += taps[w] * recent[i + w]
            found = found + (sums / (1.0 + tl.exp(-sums)),)
    return found


@triton.jit
def step_rows(pointer, x_b, x_l, entry, d, d_until, begin, count, turned, RANK: tl.constexpr):
    """`sequence` and `until` of the rows of delta, or (RANK > 0) of the rows that `weight` multiplies."""
    x, until = d, d_until
    if RANK > 0:
        x = tl.arange(0, RANK)
        until = x * 0 + count
    base, stride = sequence(pointer, x_b, x_l, entry, x, begin, count, turned)
    return base, stride, until


@triton.jit
def step_sizes(
    raw, first, until, weight, shift, SOFTPLUS: tl.constexpr, RANK: tl.constexpr, UNROLL: tl.constexpr
):  # fmt: skip
    """dt of UNROLL tokens, 0 beyond the end: from `rows` of delta, or (RANK > 0) such rows times `weight`."""
    sizes = ()
    for i in tl.static_range(UNROLL):
        if RANK == 0:  # noqa: SIM108  decided when the kernel is compiled
            dt = raw[i] + shift
        else:
            dt = tl.sum(weight * raw[i][:, None], axis=0) + shift
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
def step_weight(pointer, d, d_there, D, RANK: tl.constexpr, BY_CHANNEL: tl.constexpr):
    """`(RANK, BLOCK)` of the projection to dt; None without one."""
    weight = None
    if RANK > 0:
        r = tl.arange(0, RANK)
        tile, there = tile_of(r, d, r < RANK, d_there, D, BY_CHANNEL)
        weight = tl.load(pointer + tile, mask=there, other=0.0)
    return weight


@triton.jit
def channel_numbers(pointer, at, d_there, BLOCK: tl.constexpr):
    """One float32 number per channel; zeros without such a vector."""
    numbers = tl.zeros([BLOCK], tl.float32)
    if pointer is not None:
        numbers = tl.load(pointer + at, mask=d_there, other=0.0)
    return numbers
