"""The causal depthwise convolution of the `cpu` backend: one pass over the tensor, including SiLU.

torch's conv1d needs 18 to 33 times as long for such shapes, as it has no depthwise path for long sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from mambamed.ssm import kept_memory
from mambamed.ssm.cpu_threads import run_kernel, shares, workers
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
from mambamed.ssm.rows import Rows, address, round_up, vector_width
from mambamed.ssm.simd import STAMP, Value, emitter, fma, sigmoid

AHEAD = 32  # tokens between a prefetch and its use
SMALL = 1 << 15  # numbers below which a second thread does not pay off


@emitter(lambda total, row, tap, width: total)
def add_tap(total: list[Value], row: Value, tap: Value, width: int) -> list[Value]:
    """total + row tap."""
    return [fma(row.load(width), tap.load(width), total[0])]


@emitter(lambda out, total, is_silu: total)
def finish(out: Value, total: list[Value], is_silu: int) -> list[Value]:
    """Write the convolved token, optionally through silu."""
    result = total[0]
    out.store(result * sigmoid([result])[0] if is_silu else result)
    return total


@emitter(lambda out, g, total, sums, is_silu, width: sums)
def finish_adjoint(out: Value, g: Value, total, sums, is_silu: int, width: int) -> list[Value]:
    """Write the gradient of the convolved token; add it to the bias' gradient."""
    gradient, x = g.load(width), total[0]
    if is_silu:
        s = sigmoid([x])[0]
        gradient = gradient * fma(x * s, (s * -1.0) + 1.0, s)
    out.store(gradient)
    return [sums[0] + gradient]


def make_conv(width: int, is_silu: int, stamp: int) -> Callable:
    """out_t = silu(bias + sum_k taps_k x_{t-k})."""
    vector = width * FLOAT

    @compile_kernel
    def conv(table):
        """Of the rows before the first, `history` exist; others are read from `zeros`."""
        arguments = next_task(table, stamp)
        while arguments != 0:
            (
                x, rows_x, out, rows_out, taps, row_taps, bias, zeros, count, history, length, blocks,
            ) = load_arguments(arguments, 12)  # fmt: skip
            for t in range(length):
                for block in range(blocks):
                    c = block * vector
                    prefetch(x + (t + AHEAD) * rows_x + c, 0)
                    prefetch(out + (t + AHEAD) * rows_out + c, 1)
                    total = load_rows(bias + c, 0, width, 1)
                    for k in range(count):
                        row = x + (t - k) * rows_x + c if t - k >= -history else zeros
                        total = add_tap(total, row, taps + k * row_taps + c, width)
                    finish(out + t * rows_out + c, total, is_silu)
            arguments = next_task(table, stamp)

    return conv


def make_conv_adjoint(width: int, is_silu: int, stamp: int) -> Callable:
    """Gradient of the convolved tokens, before silu, and its sums for taps and bias."""
    vector = width * FLOAT

    @compile_kernel
    def adjoint(table):
        """Same as `conv`; `sums` are (taps + 1) rows, the last for the bias, to which is added."""
        arguments = next_task(table, stamp)
        while arguments != 0:
            (
                x, rows_x, g, rows_g, out, rows_out, taps, row_taps, bias, zeros, sums,
                count, history, length, blocks,
            ) = load_arguments(arguments, 15)  # fmt: skip
            for t in range(length):
                for block in range(blocks):
                    c = block * vector
                    prefetch(x + (t + AHEAD) * rows_x + c, 0)
                    prefetch(g + (t + AHEAD) * rows_g + c, 0)
                    prefetch(out + (t + AHEAD) * rows_out + c, 1)
                    total = load_rows(bias + c, 0, width, 1)
                    for k in range(count):
                        row = x + (t - k) * rows_x + c if t - k >= -history else zeros
                        total = add_tap(total, row, taps + k * row_taps + c, width)
                    to, at_bias = out + t * rows_out + c, sums + count * row_taps + c
                    store_rows(
                        at_bias, 0,
                        finish_adjoint(to, g + t * rows_g + c, total, load_rows(at_bias, 0, width, 1),
                        is_silu, width),
                    )  # fmt: skip
                    for k in range(count):
                        row = x + (t - k) * rows_x + c if t - k >= -history else zeros
                        at_tap = sums + k * row_taps + c
                        store_rows(at_tap, 0, add_tap(load_rows(at_tap, 0, width, 1), row, to, width))
            arguments = next_task(table, stamp)

    return adjoint


@functools.cache
def conv_kernel(make: Callable, width: int, is_silu: bool) -> int:
    return keep_kernel(make(width, int(is_silu), STAMP))


def per_channel(weight: Tensor, bias: Tensor | None, columns: int) -> tuple[Tensor, Tensor]:
    """Taps `(W, D')`, that of the token itself first, and bias `(D',)`, padded with zeros."""
    padding = columns - weight.shape[0]
    taps = functional.pad(weight.float().flip(1).T, (0, padding)).contiguous()
    if bias is None:
        return taps, kept_memory.zeros(columns)
    return taps, functional.pad(bias.float(), (0, padding)).contiguous()


def _pieces(batch: int, length: int, columns: int) -> list[tuple[int, int, int]]:
    """(batch entry, first token, end token) of each task."""
    parts = -(-workers() // batch) if batch * length * columns >= SMALL else 1
    return [(b, *piece) for b in range(batch) for piece in shares(length, parts)]


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool, into: Tensor | None = None
) -> Tensor:
    """`mambamed.ssm.conv.causal_conv` for CPU tensors, in float32; written to `into` if given."""
    (batch, channels, length), width = x.shape, vector_width()
    columns = round_up(channels, width)
    rows = Rows(x, columns, reverse)
    if into is None:
        into = kept_memory.empty(batch, length, columns).transpose(1, 2)
    out = Rows(into, columns, reverse)
    taps, offset = per_channel(weight, bias, columns)
    zeros = kept_memory.zeros(columns)
    count = taps.shape[0]
    table = [
        (
            rows.at(b, first), rows.stride, out.at(b, first), out.stride, address(taps), columns * FLOAT,
            address(offset), address(zeros), count, first, end - first, columns // width,
        )
        for b, first, end in _pieces(batch, length, columns)
    ]  # fmt: skip
    run_kernel(conv_kernel(make_conv, width, silu), table)
    return out.tensor[..., :channels].transpose(1, 2)


def conv_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    reverse: bool,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (written to `into` if given), weight and bias."""
    (batch, channels, length), width = x.shape, vector_width()
    columns = round_up(channels, width)
    rows, g = Rows(x, columns, reverse), Rows(grad_out, columns, reverse)
    before_silu = Rows(kept_memory.empty(batch, length, columns).transpose(1, 2), columns, reverse)
    taps, offset = per_channel(weight, bias, columns)
    zeros = kept_memory.zeros(columns)
    count = taps.shape[0]
    pieces = _pieces(batch, length, columns)
    sums = kept_memory.zeros(len(pieces), count + 1, columns)
    table = [
        (
            rows.at(b, first), rows.stride, g.at(b, first), g.stride, before_silu.at(b, first),
            before_silu.stride, address(taps), columns * FLOAT, address(offset), address(zeros),
            address(sums, i), count, first, end - first, columns // width,
        )
        for i, (b, first, end) in enumerate(pieces)
    ]  # fmt: skip
    run_kernel(conv_kernel(make_conv_adjoint, width, silu), table)
    # the gradient of a token comes from later ones: the same convolution in the opposite direction
    arrived = before_silu.tensor[..., :channels].transpose(1, 2)
    total = sums.sum(0)[:, :channels]
    return (
        conv_forward(arrived, weight, None, False, not reverse, into),
        total[:count].flip(0).T,
        total[count],
    )
