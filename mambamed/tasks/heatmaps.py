"""Landmarks as heatmaps on any grid, with a width in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SMALLEST_SIGMA_VOXELS = 0.7  # a narrower Gaussian between two voxels would hardly be sampled
BALL_RADIUS_SIGMAS = 3.0


@dataclass(frozen=True)
class Shape:
    """The form of a target.

    Attributes:
        kind: "gaussian", or "ball": 1 at the point, decreasing linearly to 0 at three sigma.
        sigma_voxels: along x, y, z of the prepared grid.
    """

    kind: Literal["gaussian", "ball"]
    sigma_voxels: tuple[float, float, float]

    @classmethod
    def of(
        cls, kind: Literal["gaussian", "ball"], sigma_mm: float | None, spacing_mm: Sequence[float]
    ) -> Shape:
        """The same width in mm along every axis, but at least 0.7 voxels.

        >>> Shape.of("gaussian", 2.0, (1.0, 1.0, 5.0)).sigma_voxels
        (2.0, 2.0, 0.7)
        """
        width = 2 * sum(spacing_mm) / 3 if sigma_mm is None else sigma_mm
        x, y, z = (max(width / spacing, SMALLEST_SIGMA_VOXELS) for spacing in spacing_mm)
        return cls(kind, (x, y, z))


def heatmaps(points: Tensor, grid: Sequence[int], shape: Shape, strides: Sequence[int] = (1, 1, 1)) -> Tensor:
    """Draw points as heatmaps.

    Args:
        points: `(B, K, 3)` float32, voxels of the finest grid; infinite: absent, NaN: not annotated.
        grid: `(X, Y, Z)` of the heatmaps.
        strides: voxels of the finest grid per voxel of this grid along each axis; voxel i is at
            `strides * i + (strides - 1) / 2`.

    Returns:
        `(B, K, X, Y, Z)` float32 from 0 to 1; 0 for a landmark without a position.
    """
    squares = _squares(points, grid, shape, strides)
    if shape.kind == "gaussian":
        x, y, z = (torch.exp(-0.5 * square) for square in squares)
        drawn = x[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]
    else:
        x, y, z = squares
        distance = torch.sqrt(x[..., :, None, None] + y[..., None, :, None] + z[..., None, None, :])
        drawn = (1 - distance / BALL_RADIUS_SIGMAS).clamp_min(0)
    return torch.nan_to_num(drawn, nan=0.0)


def mean_over_heatmaps(
    values: Tensor, points: Tensor, shape: Shape, strides: Sequence[int] = (1, 1, 1)
) -> Tensor:
    """Mean of `(B, K, X, Y, Z)` values, weighted by the heatmaps of the points: `(B, K)`.

    Gaussians are separable and therefore not drawn, which is ten times faster.
    """
    grid = values.shape[2:]
    if shape.kind != "gaussian":
        drawn = heatmaps(points, grid, shape, strides).flatten(2)
        return (drawn * values.flatten(2)).sum(2) / drawn.sum(2).clamp_min(1e-12)
    for square in reversed(_squares(points, grid, shape, strides)):
        profile = torch.nan_to_num(torch.exp(-0.5 * square), nan=0.0)
        profile = profile / profile.sum(-1, keepdim=True).clamp_min(1e-12)
        lines = values.flatten(2, -2) if values.ndim > 3 else values[:, :, None]
        values = (lines @ profile[..., None])[..., 0].reshape(values.shape[:-1])
    return values


def _squares(points: Tensor, grid: Sequence[int], shape: Shape, strides: Sequence[int]) -> list[Tensor]:
    """Squared distances along x, y and z, in sigmas: three tensors `(B, K, size)`."""
    squares = []
    for axis, (size, stride, sigma) in enumerate(zip(grid, strides, shape.sigma_voxels, strict=True)):
        places = torch.arange(size, dtype=torch.float32, device=points.device) * stride + (stride - 1) / 2
        wide = max(sigma, SMALLEST_SIGMA_VOXELS * stride)
        squares.append(((places - points[..., axis, None]) / wide) ** 2)
    return squares


def is_inside(points: Tensor, grid: Sequence[int]) -> Tensor:
    """Which of `(..., 3)` points are inside a grid; False for absent points."""
    size = torch.tensor(tuple(grid), dtype=points.dtype, device=points.device)
    return ((points >= -0.5) & (points <= size - 0.5)).all(-1)


def strides_of(fine: Sequence[int], coarse: Sequence[int]) -> tuple[int, int, int]:
    """Voxels of a fine grid per voxel of a coarse grid of deep supervision.

    >>> strides_of((48, 64, 35), (12, 16, 9))
    (4, 4, 4)
    """
    found = []
    for size, small in zip(fine, coarse, strict=True):
        powers = [2**n for n in range(8) if -(-size // 2**n) == small]
        found.append(powers[0] if powers else max(1, round(size / small)))
    return (found[0], found[1], found[2])
