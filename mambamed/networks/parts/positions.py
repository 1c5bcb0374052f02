"""Positions of the voxels of a grid that are computed, not learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mambamed.networks.parts.blocks import Triple


def sines(shape: Triple, width: int, device: torch.device, first: float) -> Tensor:
    """Positions of a grid: `(D H W, width)`, a third of the width per axis, sine and cosine in turn.

    Number k of an axis is the sine (k even) or cosine (k odd) of g / 10000^(3 (k div 3) / (width / 3)), where
    g = 2 pi (n + first) / (N + 1e-6) for the voxels n = 0 .. N - 1. Pairs and frequencies are those of the
    public code of CoTr (first = 0.5) and of TransUNet (first = 1).
    """
    each = width // 3
    k = torch.arange(each, device=device)
    frequency = 10000.0 ** (3 * k.div(3, rounding_mode="floor") / each)
    parts = []
    for axis, size in enumerate(shape):
        g = (torch.arange(size, device=device) + first) / (size + 1e-6) * (2 * math.pi)
        angle = g[:, None] / frequency
        table = torch.where(k % 2 == 0, angle.sin(), angle.cos())  # (N, each)
        parts.append(table.view([size if a == axis else 1 for a in range(3)] + [each]).expand(*shape, each))
    return torch.cat(parts, dim=-1).flatten(0, 2)
