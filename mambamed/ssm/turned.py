"""Channel-major sequences in the kernels of the `cpu` backend: tiles are transposed as they are read.

The kernels need the channels of a token adjacent in memory; in a channel-major tensor (`(B, D, L)`
contiguous, the layout of mamba_ssm) the tokens of a channel are adjacent. Copying whole sequences takes
longer than the scan. Instead, a tile of `TILE` tokens is transposed in registers when it is needed, and stays
in the first-level cache.
"""

from __future__ import annotations

from typing import Any

from numba import types

from mambamed.ssm.lanes import FLOAT
from mambamed.ssm.rows import TILE
from mambamed.ssm.simd import Value, emitter


@emitter(lambda *arguments: types.UniTuple(types.int64, 4))
def tile_rows(
    source: Value, rows: Value, columns: Value, first: Value, shift: Value, tile: Value, row: Any,
    wanted: Value, width: int,
) -> list[Value]:  # fmt: skip
    """Where the kernels read `width` columns of the `TILE` tokens from `first` on.

    If the columns are adjacent (`columns` is 4), they are read in place. Otherwise, if `wanted`, they are
    transposed into `tile`, whose rows are `row` bytes apart. The last tile has `shift` tokens fewer than
    `TILE`; it is transposed together with the `shift` tokens before it.

    Returns: address and stride of these tokens, address and stride of what to prefetch for the next tile.
    """
    builder, kind = source.builder, source.value.type
    row = row if isinstance(row, Value) else Value(builder, kind(row))
    adjacent = builder.icmp_signed("==", columns.value, kind(FLOAT))
    here = _times(rows, first, source)
    with builder.if_then(builder.and_(builder.not_(adjacent), wanted.value)):
        _transpose(_times(rows, shift, here, -1), rows, columns, tile, row, width)

    def either(in_place: Value, turned: Value) -> Value:
        return Value(builder, builder.select(adjacent, in_place.value, turned.value))

    return [
        either(here, _times(row, shift, tile)), either(rows, row), here.at(rows, TILE), either(rows, columns)
    ]  # fmt: skip


def _times(stride: Value, count: Value, address: Value, sign: int = 1) -> Value:
    """`address` + sign stride count."""
    builder = address.builder
    step = builder.mul(stride.value, count.value)
    return Value(builder, (builder.add if sign > 0 else builder.sub)(address.value, step))


def _transpose(source: Value, rows: Value, columns: Value, tile: Value, row: Value, width: int) -> None:
    """Transpose `TILE` adjacent tokens; `rows` is -4 if they are read backwards."""
    builder, kind = source.builder, source.value.type
    backwards = builder.icmp_signed("<", rows.value, kind(0))

    def by_direction(reverse: Value, ahead: Value) -> Value:
        return Value(builder, builder.select(backwards, reverse.value, ahead.value))

    low = by_direction(source.at(rows, TILE - 1), source)
    tile, row = by_direction(tile.at(row, TILE - 1), tile), by_direction(row.at(row, -2), row)
    for token in range(0, TILE, width):
        square = [low.at(columns, c).at(FLOAT * token).load(width) for c in range(width)]
        for t, lanes in enumerate(transposed(square)):
            tile.at(row, token + t).store(lanes)


def transposed(rows: list[Value]) -> list[Value]:
    """W vectors of W numbers as a matrix, transposed: squares of 1, 2, 4, ... are exchanged in turn."""
    width, rows = len(rows), list(rows)
    size = 1
    while size < width:
        upper = [lane if not lane & size else width + lane - size for lane in range(width)]
        lower = [lane + size if not lane & size else width + lane for lane in range(width)]
        for i in range(width):
            if not i & size:
                a, b = rows[i], rows[i + size]
                rows[i], rows[i + size] = a.shuffle(b, upper), a.shuffle(b, lower)
        size *= 2
    return rows
