"""Elastic deformation of a patch: a smooth random displacement that never folds space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
_FOLD_FREE = 0.4  # of the distance of control points; below 0.48 space cannot fold (Choi & Lee 2000)
_ROUNDS = 50
_CLOSE = 1e-4  # voxels


@dataclass(frozen=True)
class Displacement:
    """Displacement of each patch voxel, in prepared voxels: a cubic B-spline.

    Source: Rueckert et al. 1999 (free-form deformations), eq. 3.
    """

    control: NDArray[np.float64]  # `(3, A, B, C)` displacements at the control points
    step: tuple[float, float, float]  # patch voxels between control points; the second one lies at voxel 0

    @property
    def largest(self) -> NDArray[np.float64]:
        """Bound of the displacement along each axis: a B-spline stays within its control points."""
        return np.abs(self.control).max(axis=(1, 2, 3))

    def dense(self, patch_size: Triple) -> NDArray[np.float32]:
        """`(3, *patch_size)`: the displacement of every patch voxel."""
        moved = self.control
        for axis, size in enumerate(patch_size, start=1):
            weights = self.weights(np.arange(size), axis - 1)
            moved = np.moveaxis(np.tensordot(moved, weights, axes=(axis, 1)), -1, axis)
        return np.ascontiguousarray(moved, np.float32)

    def at(self, points: NDArray) -> NDArray[np.float64]:
        """`(n, 3)` patch voxels -> `(n, 3)` displacements; outside the patch those of its border."""
        x, y, z = (self.weights(points[:, axis], axis) for axis in range(3))
        return np.einsum("dabc,na,nb,nc->nd", self.control, x, y, z)

    def weights(self, positions: NDArray, axis: int) -> NDArray[np.float64]:
        """`(n, points)`: weight of each control point at each position."""
        count = self.control.shape[axis + 1]
        t = np.clip(np.asarray(positions, float) / self.step[axis], 0, count - 3)
        distance = np.abs(t[:, None] + 1 - np.arange(count))
        near = 2 / 3 - distance**2 + distance**3 / 2
        return np.where(distance < 1, near, np.where(distance < 2, (2 - distance) ** 3 / 6, 0))


def random_displacement(
    std_mm: float,
    smoothness_mm: float,
    spacing_mm: Sequence[float],
    patch_size: Triple,
    random: np.random.Generator,
) -> Displacement:
    """Draw displacements of standard deviation `std_mm` at control points that are `smoothness_mm` apart.

    They are clipped where space would fold. `spacing_mm` is that of the prepared grid.
    """
    spacing = np.asarray(spacing_mm, float)
    step = np.maximum(smoothness_mm / spacing, 2.0)
    counts = [int(np.ceil((size - 1) / s)) + 3 for size, s in zip(patch_size, step, strict=True)]
    drawn = random.normal(0, std_mm, (3, *counts)) / spacing[:, None, None, None]
    limit = (_FOLD_FREE * step)[:, None, None, None]
    return Displacement(np.clip(drawn, -limit, limit), (float(step[0]), float(step[1]), float(step[2])))


def place_of(points: NDArray, matrix: NDArray, offset: NDArray, displacement: Displacement) -> NDArray:
    """Patch voxels o of `(n, 3)` prepared voxels p: `matrix @ o + offset + displacement(o) = p`.

    NaN stays NaN.
    """
    inverse = np.linalg.inv(matrix)
    place = (points - offset) @ inverse.T
    there = ~np.isnan(place).any(axis=1)
    for _ in range(_ROUNDS):
        moved = (points[there] - offset - displacement.at(place[there])) @ inverse.T
        change = np.abs(moved - place[there]).max(initial=0)
        place[there] = moved
        if change < _CLOSE:
            break
    return place
