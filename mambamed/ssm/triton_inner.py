"""Triton kernels around the scan of a Mamba block: the causal convolution with silu, and its projection.

    project               rows of `x_proj` (step sizes, B and C) from the input of the convolution
    step_gradients        from the gradient of the step sizes to those of their rows and of dt_proj's weight
    output_gradients      from the gradient of u to that of the convolution's output, in place
    projection_gradients  the gradient of x_proj's weight
    conv_gradients        the gradients of the convolution's input, of its weights and bias

u = silu(conv(x)) is computed from x in each of them, and in the scan's kernels; it is never stored. A program
processes TOKENS tokens (or a run of RUN tokens) and BLOCK channels, for both sides one after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mambamed.ssm.triton_tokens import COUNTS

TOKENS = 32
BLOCK = 32
COLUMNS = 64  # of the projection
RUN = 1024  # tokens whose sums are added by one program


@triton.jit
def convolved(x, x_l, taps, bias, token, d, L, D, back, WIDTH: tl.constexpr):
    """`(TOKENS, BLOCK)`: the convolution, before silu; `back` is 1, or -1 for the side that is turned."""
    there = d < D
    sums = tl.zeros([token.shape[0], d.shape[0]], tl.float32)
    if bias is not None:
        sums += tl.load(bias + d, mask=there, other=0.0)[None, :]
    for w in tl.static_range(WIDTH):
        from_token = token - back * (WIDTH - 1 - w)
        here = (from_token >= 0) & (from_token < L)
        row = x + from_token.to(tl.int64)[:, None] * x_l + d[None, :]
        tap = tl.load(taps + w * D + d, mask=there, other=0.0)
        sums += tap[None, :] * tl.load(row, mask=here[:, None] & there[None, :], other=0.0).to(tl.float32)
    return sums


@triton.jit(do_not_specialize=COUNTS)
def project(
    x, x_b, x_l, taps, tap_bias, weight, out, L, D, P, tiles, batch, sides, reverse,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`out (S, B, L, P)`: u times `weight (S, D, P)`, multiplied in the weight's dtype."""
    index = tl.program_id(0)
    tile, entry = index % tiles, ((index // tiles) % batch).to(tl.int64)
    p = index // (tiles * batch) * COLUMNS + tl.arange(0, COLUMNS)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    for side in range(0, sides):
        sums = tl.zeros([TOKENS, COLUMNS], tl.float32)
        for first in range(0, D, BLOCK):
            d = first + tl.arange(0, BLOCK)
            bias = None if tap_bias is None else tap_bias + side * D
            back = 1 - 2 * (reverse + side)
            u = convolved(x + entry * x_b, x_l, taps + side * WIDTH * D, bias, token, d, L, D, back, WIDTH)
            u = u / (1.0 + tl.exp(-u))
            there = (d[:, None] < D) & (p[None, :] < P)
            by = tl.load(weight + (side * D + d)[:, None] * P + p[None, :], mask=there, other=0.0)
            sums = tl.dot(u.to(by.dtype), by, sums, input_precision=PRECISION)
        row = (side * batch + entry) * L + token
        tl.store(out + row[:, None] * P + p[None, :], sums, mask=(token[:, None] < L) & (p[None, :] < P))


@triton.jit(do_not_specialize=COUNTS)
def step_gradients(
    ddelta, step, step_b, step_l, weight, dstep, dstep_b, dstep_l, dweight, L, D, runs, batch,
    TOKENS: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr, RANK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Of one side's `ddelta (B, L, D)`: partial sums of the gradients of `step (B, L, RANK)` and of `weight`.

    `dstep (blocks, S, B, L, .)` is that of the step sizes' rows, one sum per BLOCK channels, in rows of
    `dstep_l` numbers, `dstep_b` apart. `dweight (runs, B, RANK, D)`. Rows have WIDE numbers, the
    least that a product of matrices needs.
    """
    index = tl.program_id(0)
    run, entry = index % runs, ((index // runs) % batch).to(tl.int64)
    block = (index // (runs * batch)).to(tl.int64)
    d, r = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDE)
    tile, tile_there = r[:, None] * D + d[None, :], (r[:, None] < RANK) & (d[None, :] < D)
    weights = tl.load(weight + tile, mask=tile_there, other=0.0)
    sums = tl.zeros([WIDE, BLOCK], tl.float32)
    for first in range(run * RUN, tl.minimum(run * RUN + RUN, L), TOKENS):
        token = (first + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
        of_delta = tl.load(
            ddelta + (entry * L + token) * D + d[None, :], mask=(token < L) & (d[None, :] < D), other=0.0
        )
        row_there = (token < L) & (r[None, :] < RANK)
        row = tl.load(step + entry * step_b + token * step_l + r[None, :], mask=row_there, other=0.0)
        of_row = tl.dot(of_delta, tl.trans(weights), input_precision="ieee")
        at = dstep + block * dstep_b + (entry * L + token) * dstep_l + r[None, :]
        tl.store(at, of_row, mask=token < L)
        sums = tl.dot(tl.trans(row.to(tl.float32)), of_delta, sums, input_precision="ieee")
    tl.store(dweight + (run * batch + entry) * RANK * D + tile, sums, mask=tile_there)


@triton.jit(do_not_specialize=COUNTS)
def output_gradients(
    x, x_b, x_l, taps, tap_bias, weight, drows, du, L, D, P, tiles, batch, sides, reverse,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`du (S, B, L, D)`, the scan's gradient of u, becomes that of the convolution's output.

    Added to it is what arrives through the projection, `drows (S, B, L, P)` times `weight (S, D, P)`.
    """
    index = tl.program_id(0)
    tile, entry = index % tiles, ((index // tiles) % batch).to(tl.int64)
    d = index // (tiles * batch) * BLOCK + tl.arange(0, BLOCK)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    there = (token[:, None] < L) & (d[None, :] < D)
    for side in range(0, sides):
        row = (side * batch + entry) * L + token
        at = du + row[:, None] * D + d[None, :]
        sums = tl.load(at, mask=there, other=0.0)
        for first in range(0, P, COLUMNS):
            p = first + tl.arange(0, COLUMNS)
            here = (d[:, None] < D) & (p[None, :] < P)
            by = tl.load(weight + (side * D + d)[:, None] * P + p[None, :], mask=here, other=0.0)
            given = (token[:, None] < L) & (p[None, :] < P)
            of_rows = tl.load(drows + row[:, None] * P + p[None, :], mask=given, other=0.0)
            sums = tl.dot(of_rows.to(by.dtype), tl.trans(by), sums, input_precision=PRECISION)
        bias = None if tap_bias is None else tap_bias + side * D
        back = 1 - 2 * (reverse + side)
        pre = convolved(x + entry * x_b, x_l, taps + side * WIDTH * D, bias, token, d, L, D, back, WIDTH)
        gate = 1.0 / (1.0 + tl.exp(-pre))
        tl.store(at, sums * gate * (1.0 + pre * (1.0 - gate)), mask=there)


@triton.jit(do_not_specialize=COUNTS)
def projection_gradients(
    x, x_b, x_l, taps, tap_bias, weight, drows, dweight, L, D, P, runs, batch, sides, reverse, columns,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr, RUN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial sums `dweight (runs, B, S, D, P)` of u times `drows`, multiplied in the dtype of `weight`."""
    index = tl.program_id(0)
    run, entry = index % runs, ((index // runs) % batch).to(tl.int64)
    tile = index // (runs * batch)
    d = tile // columns * BLOCK + tl.arange(0, BLOCK)
    p = tile % columns * COLUMNS + tl.arange(0, COLUMNS)
    for side in range(0, sides):
        sums = tl.zeros([BLOCK, COLUMNS], tl.float32)
        for first in range(run * RUN, tl.minimum(run * RUN + RUN, L), TOKENS):
            token = first + tl.arange(0, TOKENS)
            bias = None if tap_bias is None else tap_bias + side * D
            back = 1 - 2 * (reverse + side)
            u = convolved(x + entry * x_b, x_l, taps + side * WIDTH * D, bias, token, d, L, D, back, WIDTH)
            u = u / (1.0 + tl.exp(-u))
            row = (side * batch + entry) * L + token
            given = (token[:, None] < L) & (p[None, :] < P)
            of_rows = tl.load(drows + row[:, None] * P + p[None, :], mask=given, other=0.0)
            kind = weight.dtype.element_ty
            sums = tl.dot(tl.trans(u.to(kind)), of_rows.to(kind), sums, input_precision=PRECISION)
        at = ((run * batch + entry) * sides + side) * D + d
        there = (d[:, None] < D) & (p[None, :] < P)
        tl.store(dweight + at[:, None] * P + p[None, :], sums, mask=there)


@triton.jit(do_not_specialize=COUNTS)
def conv_gradients(
    x, x_b, x_l, taps, dconv, dx, dx_b, dx_l, dtaps, L, D, runs, batch, sides, reverse,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Of `dconv (S, B, L, D)`: `dx (B, L, D)`, summed over the sides, and sums `dtaps (runs, B, S, ROWS, D)`.

    Of the ROWS, the first WIDTH are the gradients of the taps, the next is that of the bias.
    """
    index = tl.program_id(0)
    run, entry = index % runs, ((index // runs) % batch).to(tl.int64)
    d = index // (runs * batch) * BLOCK + tl.arange(0, BLOCK)
    d_there = d < D
    number = tl.arange(0, ROWS)
    for side in range(0, sides):
        back = 1 - 2 * (reverse + side)
        sums = tl.zeros([ROWS, BLOCK], tl.float32)
        grads = dconv + (side * batch + entry) * L * D
        for first in range(run * RUN, tl.minimum(run * RUN + RUN, L), TOKENS):
            token = first + tl.arange(0, TOKENS)
            there = (token[:, None] < L) & d_there[None, :]
            own = tl.load(grads + token.to(tl.int64)[:, None] * D + d[None, :], mask=there, other=0.0)
            total = tl.sum(own, axis=0)
            sums += tl.where(number[:, None] == WIDTH, total[None, :], 0.0)
            at = dx + entry * dx_b + token.to(tl.int64)[:, None] * dx_l + d[None, :]
            earlier = (token[:, None] < L * side) & d_there[None, :]
            of_x = tl.load(at, mask=earlier, other=0.0).to(tl.float32)
            for w in tl.static_range(WIDTH):
                shift = back * (WIDTH - 1 - w)
                tap = tl.load(taps + (side * WIDTH + w) * D + d, mask=d_there, other=0.0)
                reached = token + shift  # whose outputs this token enters by tap w
                here = ((reached >= 0) & (reached < L))[:, None] & d_there[None, :]
                row = grads + reached.to(tl.int64)[:, None] * D + d[None, :]
                of_x += tap[None, :] * tl.load(row, mask=here, other=0.0)
                source = token - shift
                here = ((source >= 0) & (source < L))[:, None] & d_there[None, :]
                row = x + entry * x_b + source.to(tl.int64)[:, None] * x_l + d[None, :]
                total = tl.sum(own * tl.load(row, mask=here, other=0.0).to(tl.float32), axis=0)
                sums += tl.where(number[:, None] == w, total[None, :], 0.0)
            tl.store(at, of_x, mask=there)
        row = ((run * batch + entry) * sides + side) * ROWS + number
        tl.store(
            dtaps + row[:, None] * D + d[None, :], sums, mask=(number[:, None] < ROWS) & d_there[None, :]
        )
        tl.debug_barrier()  # until all threads have stored what the next side adds to
