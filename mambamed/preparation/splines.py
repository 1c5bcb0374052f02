"""Resampling along one axis: cubic B-splines as a banded matrix, and linear and nearest neighbors.

Both grids cover the same length: the center of new voxel i is at `(i + 0.5) * n / m - 0.5` in old voxels, and
the outermost voxels are repeated beyond the ends. These are the conventions of scikit-image's
`resize(mode="edge", anti_aliasing=False)`, which nnU-Net uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WEIGHT_CUT = 1e-6
"""Smaller spline weights are dropped; they fall by 0.27 per voxel, so about ten remain on each side."""

_PADDING = 12
_BLOCK = 32


@dataclass(frozen=True)
class AxisOperator:
    """A banded `(new_length, length)` matrix as dense blocks of rows.

    `blocks` are `(row_start, row_stop, column_start, column_stop, weights)` with float32 weights.
    """

    length: int
    new_length: int
    blocks: tuple[tuple[int, int, int, int, NDArray[np.float32]], ...]

    @property
    def is_identity(self) -> bool:
        """Whether the axis is unchanged."""
        return self.length == self.new_length


def new_centers(length: int, new_length: int) -> NDArray[np.float64]:
    """Centers of the new voxels in old voxel indices.

    >>> new_centers(4, 2).tolist()
    [0.5, 2.5]
    """
    return (np.arange(new_length, dtype=np.float64) + 0.5) * (length / new_length) - 0.5


@lru_cache(maxsize=256)
def spline_operator(length: int, new_length: int) -> AxisOperator:
    """Cubic B-spline interpolation from `length` to `new_length` voxels.

    Source: Unser 1999, IEEE Signal Process. Mag. 16(6):22. The prefilter is the inverse of the tridiagonal
    matrix (1/6, 2/3, 1/6) over the axis with twelve repeated voxels at each end, as scipy.ndimage pads.
    """
    if length == new_length:
        return AxisOperator(length, new_length, ())
    padded = length + 2 * _PADDING
    centers = new_centers(length, new_length) + _PADDING
    base = np.floor(centers).astype(int)
    t = centers - base
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    sampling = np.zeros((new_length, padded))
    rows = np.arange(new_length)
    for k in range(4):
        sampling[rows, np.clip(base + k - 1, 0, padded - 1)] += weights[:, k] / 6
    interpolation = sampling @ _prefilter(padded)
    matrix = interpolation[:, _PADDING : _PADDING + length].copy()
    matrix[:, 0] += interpolation[:, :_PADDING].sum(axis=1)
    matrix[:, -1] += interpolation[:, _PADDING + length :].sum(axis=1)
    return _banded(matrix)


def linear_neighbors(
    length: int, new_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each new voxel the two neighboring old ones and the weight of the second.

    >>> low, high, weight = linear_neighbors(2, 4)
    >>> low.tolist(), high.tolist(), weight.tolist()
    ([0, 0, 0, 1], [0, 1, 1, 1], [0.75, 0.25, 0.75, 0.25])
    """
    centers = new_centers(length, new_length)
    base = np.floor(centers).astype(np.int64)
    return np.clip(base, 0, length - 1), np.clip(base + 1, 0, length - 1), centers - base


def nearest_neighbors(length: int, new_length: int) -> NDArray[np.int64]:
    """For each new voxel the nearest old one; halfway, the upper one, as scipy.ndimage rounds.

    >>> nearest_neighbors(2, 5).tolist()
    [0, 0, 1, 1, 1]
    """
    return np.clip(np.floor(new_centers(length, new_length) + 0.5).astype(np.int64), 0, length - 1)


def _prefilter(length: int) -> NDArray[np.float64]:
    """Samples -> spline coefficients: on an infinite line, z^|i-j| is the inverse of the tridiagonal matrix.

    With twelve repeated voxels at each end, the truncation error is below 1e-6.
    """
    pole = np.sqrt(3.0) - 2
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    # Mirror images of each sample beyond the padded ends: the boundary condition of the spline.
    mirrored = np.add.outer(np.arange(length), np.arange(length))
    behind = 2 * (length - 1) - mirrored
    edge = (np.arange(length) == 0) | (np.arange(length) == length - 1)
    powers = pole**distance + np.where(edge[None, :], 0.0, pole**mirrored + pole**behind)
    return powers * (-6 * pole / (1 - pole**2))


def _banded(matrix: NDArray[np.float64]) -> AxisOperator:
    """Drop small weights, normalize the rows so that constants are preserved, and store in blocks."""
    kept = np.where(np.abs(matrix) < WEIGHT_CUT, 0.0, matrix)
    kept /= kept.sum(axis=1, keepdims=True)
    blocks = []
    for start in range(0, len(kept), _BLOCK):
        rows = kept[start : start + _BLOCK]
        columns = np.flatnonzero(rows.any(axis=0))
        first, last = int(columns[0]), int(columns[-1]) + 1
        blocks.append(
            (start, start + len(rows), first, last, np.ascontiguousarray(rows[:, first:last], np.float32))
        )
    return AxisOperator(matrix.shape[1], matrix.shape[0], tuple(blocks))
