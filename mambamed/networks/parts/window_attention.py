"""Attention in windows of a grid of tokens, shifted or not, with a bias per relative position.

Source: Liu et al. 2021 (Swin transformer), in the form of nnFormer's public code; see `nnformer`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.blocks import Triple

RelativeIndex = Literal["public", "exact"]

_MASKED = -100.0  # added to the logits of pairs that the shift brought together


@dataclass(frozen=True)
class Windows:
    """How the grid of a stage is divided: size of the windows, and shift of every second block."""

    grid: Triple
    size: Triple
    shift: Triple
    masked: bool  # whether a shifted window attends within its parts only

    @property
    def padded(self) -> Triple:
        """The grid, rounded up to whole windows."""
        d, h, w = (-(-n // size) * size for n, size in zip(self.grid, self.size, strict=True))
        return d, h, w

    def split(self, x: Tensor, shifted: bool) -> Tensor:
        """Tokens `(B, D, H, W, C)` of the grid -> `(B windows, tokens of a window, C)`."""
        missing = [full - n for n, full in zip(self.grid, self.padded, strict=True)]
        if any(missing):
            x = functional.pad(x, (0, 0, *(pad for each in reversed(missing) for pad in (0, each))))
        if shifted:
            x = torch.roll(x, [-each for each in self.shift], (1, 2, 3))
        return _windows(x, self.size)

    def join(self, x: Tensor, shifted: bool) -> Tensor:
        """The inverse of `split`."""
        counts = [n // size for n, size in zip(self.padded, self.size, strict=True)]
        x = x.view(-1, *counts, *self.size, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.reshape(-1, *self.padded, x.shape[-1])
        if shifted:
            x = torch.roll(x, self.shift, (1, 2, 3))
        return x[:, : self.grid[0], : self.grid[1], : self.grid[2]]

    def parts(self) -> Tensor:
        """`(windows, tokens)`: in a shifted window, tokens with the same number were neighbors before."""
        numbers = torch.zeros(*self.padded, dtype=torch.uint8)
        for axis, (n, size, shift) in enumerate(zip(self.padded, self.size, self.shift, strict=True)):
            at = torch.arange(n).view(-1, *[1] * (2 - axis))
            numbers = 3 * numbers + (at >= n - size).byte() + (at >= n - shift).byte()
        return _windows(numbers[None, ..., None], self.size)[..., 0]


def _windows(x: Tensor, size: Triple) -> Tensor:
    """`(B, D, H, W, C)` -> `(B windows, tokens of a window, C)`, both with the last axis fastest."""
    counts = [each for n, edge in zip(x.shape[1:4], size, strict=True) for each in (n // edge, edge)]
    x = x.view(x.shape[0], *counts, x.shape[-1]).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, size[0] * size[1] * size[2], x.shape[-1])


def relative_index(size: Triple, form: RelativeIndex) -> Tensor:
    """`(N, N)`: the entry of the table of biases for each pair of the N tokens of a window.

    The factor of the first axis is 3 b - 1 in the public code for windows of (a, b, c) tokens. The exact one
    is (2 b - 1) (2 c - 1), which gives each relative position an entry of its own.
    """
    factors = _factors(size, form)
    count = math.prod(size)
    index = torch.zeros(count, count, dtype=torch.long)
    axes = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    for at, n, factor in zip(axes, size, factors, strict=True):
        at = at.flatten()
        index += factor * (at[:, None] - at[None, :] + n - 1)
    return index


def fits_table(size: Triple, form: RelativeIndex) -> bool:
    """Whether the table has an entry for each pair of tokens; "public" lacks some of flat windows."""
    last = sum(2 * (n - 1) * factor for n, factor in zip(size, _factors(size, form), strict=True))
    return last < math.prod(2 * n - 1 for n in size)


def _factors(size: Triple, form: RelativeIndex) -> Triple:
    """Of the relative position along each axis, in the index of the table of biases."""
    _, b, c = size
    return (3 * b - 1, 2 * b - 1, 1) if form == "public" else ((2 * b - 1) * (2 * c - 1), 2 * c - 1, 1)


class Attention(nn.Module):
    """Attention in windows with a learned bias per relative position.

    Args:
        cross: queries are the input itself, and only keys and values are projected.
    """

    def __init__(self, channels: int, heads: int, size: Triple, form: RelativeIndex, cross: bool) -> None:
        super().__init__()
        self.heads, self.cross = heads, cross
        a, b, c = size
        self.table = nn.Parameter(torch.empty((2 * a - 1) * (2 * b - 1) * (2 * c - 1), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.index: Tensor
        self.register_buffer("index", relative_index(size, form), persistent=False)
        self.project = nn.Linear(channels, (2 if cross else 3) * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, parts: Tensor | None) -> Tensor:
        """`(B windows, N, C)` twice and `(windows, N)` parts that do not attend to each other -> as `x`."""
        projected = self.project(context).unflatten(-1, (-1, self.heads, x.shape[-1] // self.heads))
        given = projected.permute(2, 0, 3, 1, 4).unbind()
        query = x.unflatten(-1, (self.heads, -1)).transpose(1, 2) if self.cross else given[0]
        bias = self.table[self.index].permute(2, 0, 1)[None].to(query.dtype)
        if parts is not None:
            apart = parts[:, None, :, None] != parts[:, None, None, :]
            bias = bias + _MASKED * apart.to(bias.dtype)
            bias = bias.expand(x.shape[0] // len(parts), *bias.shape).flatten(0, 1)
        y = functional.scaled_dot_product_attention(query, *given[-2:], attn_mask=bias)
        return self.output(y.transpose(1, 2).flatten(2))
