"""Average pooling whose gradient torch accepts under `--deterministic` on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Averaged(nn.Module):
    """The mean of each block of voxels, e.g. of 2 x 2 x 2; a rest at the end of an axis is left out.

    On CUDA, torch rejects its own gradient under `--deterministic`, because pooling with overlapping windows
    has none that is exact. Here they do not overlap: the gradient of a block is that of its mean, divided.
    """

    def __init__(self, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, C, X / stride, ...)`."""
        if _is_rejected(x.device) and x.requires_grad:
            answer: Tensor = _Averaged.apply(x, self.stride)  # pyright: ignore[reportAssignmentType]
            return answer
        return functional.avg_pool3d(x, self.stride, self.stride)


def _is_rejected(device: torch.device) -> bool:
    """Whether torch rejects its gradient of an average under `--deterministic`."""
    return device.type == "cuda"


class _Averaged(torch.autograd.Function):
    """torch's average pooling with a gradient of our own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, ...]) -> Tensor:
        ctx.stride, ctx.shape = stride, x.shape
        return functional.avg_pool3d(x, stride, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        grad = grad / math.prod(ctx.stride)
        for axis, step in enumerate(ctx.stride, start=2):
            grad = grad.repeat_interleave(step, dim=axis)
        rest = [(0, whole - size) for whole, size in zip(ctx.shape[:1:-1], grad.shape[:1:-1], strict=True)]
        return functional.pad(grad, [side for sides in rest for side in sides]), None
