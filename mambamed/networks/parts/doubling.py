"""Trilinear upsampling by 2 whose gradient is reproducible on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_AXES = (2, 3, 4)


def doubled(x: Tensor, axes: Sequence[int] = _AXES) -> Tensor:
    """`(B, C, X, Y, Z)` with twice as many voxels along some axes, as `functional.interpolate` computes it.

    Of mode "trilinear" with `align_corners=False`. On CUDA, torch adds up the gradient by atomic operations,
    in another order each time, and rejects it under `--deterministic`. There, the gradient is computed as
    sums of slices. On a CPU torch's own is used, which is 1 to 19 times as fast.
    """
    if _sums_atomically(x.device) and x.requires_grad:
        answer: Tensor = _Doubled.apply(x, tuple(axes))  # pyright: ignore[reportAssignmentType]
        return answer
    return _interpolated(x, axes)


def _sums_atomically(device: torch.device) -> bool:
    """Whether torch's gradient of an interpolation depends on the order of threads."""
    return device.type == "cuda"


class Doubled(nn.Module):
    """`doubled` along all axes, as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, C, 2 X, 2 Y, 2 Z)`."""
        return doubled(x)


class _Doubled(torch.autograd.Function):
    """torch's interpolation with a gradient of our own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        ctx.axes = axes
        return _interpolated(x, axes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        for axis in reversed(ctx.axes):
            grad = _halved(grad, axis)
        return grad, None


def _interpolated(x: Tensor, axes: Sequence[int]) -> Tensor:
    scale = tuple(2.0 if axis in axes else 1.0 for axis in _AXES)
    return functional.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=False)


def _halved(grad: Tensor, axis: int) -> Tensor:
    """The gradient before doubling one axis.

    A voxel i is 3/4 of the new voxels 2 i and 2 i + 1, and 1/4 of the new voxels 2 i - 1 and 2 i + 2. At an
    end, where the outer one is missing, it is also that quarter of its own outer voxel.
    """
    pairs = grad.unflatten(axis, (-1, 2))
    first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
    count = first.shape[axis]
    before = torch.cat([first.narrow(axis, 0, 1), second.narrow(axis, 0, count - 1)], axis)
    after = torch.cat([first.narrow(axis, 1, count - 1), second.narrow(axis, count - 1, 1)], axis)
    return torch.lerp(first + second, before + after, 0.25)
