"""Sequence tensors for the kernels of the `cpu` backend: addresses and strides in bytes."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

TILE = 16  # tokens that the kernels of the scan read at once


@functools.cache
def vector_width() -> int:
    """Channels in a vector register: 16 with AVX-512, else 8."""
    from mambamed.ssm.simd import host_width

    return host_width()


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple that is not less."""
    return -(-count // multiple) * multiple


def address(tensor: Tensor, *index: int) -> int:
    """The address of an element; trailing indices may be left out."""
    offset = 0
    for i, stride in zip(index, tensor.stride(), strict=False):
        offset += i * stride
    return tensor.data_ptr() + offset * tensor.element_size()


class Rows:
    """A `(B, X, L)` tensor, read token by token: row t of a batch entry is its X numbers at token t.

    Read in place if the tensor is float32, its X are adjacent in memory and `columns` many; else copied, and
    padded with zeros to `columns`. `reverse`: the first row is the last token, and strides are negative.
    `turned`: its tokens may be adjacent instead, if they fill a tile (see `mambamed.ssm.turned`).
    """

    def __init__(self, tensor: Tensor, columns: int, reverse: bool, turned: bool = False):
        rows = tensor.transpose(1, 2)  # (B, L, X)
        if rows.dtype != torch.float32:
            rows = rows.float()
        if rows.shape[2] != columns:
            rows = functional.pad(rows, (0, columns - rows.shape[2]))
        turned = turned and rows.stride(1) == 1 and rows.shape[1] >= TILE
        if rows.stride(2) != 1 and columns > 1 and not turned:
            rows = rows.contiguous()
        self.tensor = rows
        self.reverse, self.columns = reverse, columns
        self.stride = rows.stride(1) * (-4 if reverse else 4)

    def place(self, batch: int, column: int = 0) -> tuple[int, int, int]:
        """Address of a column of the first row; bytes from one row, and from one column, to the next."""
        return self.at(batch, 0, column), self.stride, self.tensor.stride(2) * 4 if self.columns > 1 else 4

    def at(self, batch: int, token: int = 0, column: int = 0) -> int:
        """Address of a column of the `token`-th row of a batch entry in reading order."""
        row = self.tensor.shape[1] - 1 - token if self.reverse else token
        return address(self.tensor, batch, row, column)
