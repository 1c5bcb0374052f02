"""Random inputs of a scan, and how two answers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def scan_inputs(
    batch: int,
    channels: int,
    length: int,
    states: int,
    *,
    dtype=torch.float32,
    extras: bool = True,
    seed: int = 0,
) -> list[Tensor | None]:
    """u, delta, A, B, C, D, z, delta_bias; channel-last sequences; without the last three if not `extras`."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def sequence(columns: int) -> Tensor:
        return normal(batch, length, columns).transpose(1, 2)

    A = -torch.rand(channels, states, generator=random, dtype=torch.float64) * 4 - 0.01
    given = [sequence(channels), sequence(channels) - 1, A, sequence(states), sequence(states)]
    given += [normal(channels), sequence(channels), normal(channels)]
    if not extras:
        given[5:] = [None, None, None]
    return [None if t is None else t.to(dtype) for t in given]


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value."""
    return (
        (ours.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30)
    ).item()
