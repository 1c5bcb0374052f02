"""What classifiers say of cases: the middle of each, mirrored copies averaged, in batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mambamed.runs.device import autocast


@torch.inference_mode()
def class_logits(
    network: nn.Module,
    patches: Tensor,
    mirror_axes: Sequence[int] = (),
    *,
    device: torch.device,
    precision: str,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Mean logits over mirrored copies.

    Args:
        network: maps `(B, C, X, Y, Z)` to `(B, K)`; in evaluation mode, on `device`.
        patches: `(B, C, X, Y, Z)`.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are averaged in: those along which training
            mirrored, for along the others a mirror image may be of another class.
        device, precision, layout: where, how precisely, and how tensors lie in memory.

    Returns:
        `(B, K)` float32 on the CPU.
    """
    stack = patches.to(device, memory_format=layout)
    flips = [
        [2 + axis for axis in chosen]
        for count in range(len(mirror_axes) + 1)
        for chosen in itertools.combinations(mirror_axes, count)
    ]
    with autocast(device, precision):
        answers = [network(torch.flip(stack, axes) if axes else stack).float() for axes in flips]
    return torch.stack(answers).mean(0).cpu()
