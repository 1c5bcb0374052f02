"""Affines, spacing and orientation, with NumPy only.

An affine is `(4, 4)` float64, voxel index -> world, mm, RAS+ (x to the right, y to the front, z up).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Affine = NDArray[np.float64]

SPACINGS_MM = (1e-6, 1e6)
"""The smallest and the largest spacing of an image, or of a plan."""

_FARTHEST_MM = 1e9  # of an origin


def spacing_of(affine: Affine) -> NDArray[np.float64]:
    """Voxel spacing in mm, in array order.

    >>> spacing_of(np.diag([0.8, -0.8, 5.0, 1.0])).tolist()
    [0.8, 0.8, 5.0]
    """
    return np.sqrt(np.sum(np.asarray(affine, float)[:3, :3] ** 2, axis=0))


def fault_of_affine(affine: Affine) -> str | None:
    """What makes an affine unusable, as a phrase; None if nothing does.

    >>> fault_of_affine(np.diag([1e30, 1.0, 1.0, 1.0]))
    'affine: expected a spacing of 1e-06 to 1e+06 mm, got 1e+30x1x1'
    """
    rows: list[list[float]] = affine.tolist()  # plain numbers are faster here than arrays of three
    if not all(math.isfinite(number) for row in rows for number in row):
        return "affine contains NaN or Inf"
    far = max(abs(row[3]) for row in rows[:3])
    x, y, z = ([row[axis] for row in rows[:3]] for axis in range(3))
    spacing = [math.hypot(*axis) for axis in (x, y, z)]
    low, high = SPACINGS_MM
    if not all(low <= edge <= high for edge in spacing):
        return f"affine: expected a spacing of {low:g} to {high:g} mm, got {_shown(spacing)}"
    (a, b, c), (d, e, f), (g, h, i) = (
        [v / edge for v in axis] for axis, edge in zip((x, y, z), spacing, strict=True)
    )
    if abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) < 1e-6:
        return "affine is singular (two axes are parallel)"
    if far > _FARTHEST_MM:
        return f"affine: expected an origin within {_FARTHEST_MM:g} mm, got {far:g}"
    return None


def voxel_to_world(affine: Affine, points: ArrayLike) -> NDArray[np.float64]:
    """`(..., 3)` voxel indices -> world, mm, RAS+."""
    return np.asarray(points, float) @ affine[:3, :3].T + affine[:3, 3]


def world_to_voxel(affine: Affine, points: ArrayLike) -> NDArray[np.float64]:
    """`(..., 3)` world positions, mm, RAS+ -> voxel indices, not rounded.

    >>> affine = np.diag([2.0, 2.0, 4.0, 1.0])
    >>> world_to_voxel(affine, [2.0, 4.0, 4.0]).tolist()
    [1.0, 2.0, 1.0]
    """
    return (np.asarray(points, float) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


@dataclass(frozen=True)
class Orientation:
    """How to bring the axes of an array closest to RAS+.

    Attributes:
        axes: axis of the array that becomes x, y, z.
        flips: whether x, y, z are mirrored after that.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


AS_STORED = Orientation((0, 1, 2), (False, False, False))
"""Keeps the axes of an array."""


def orientation_of(affine: Affine) -> Orientation:
    """The orientation closest to RAS+: each array axis is assigned to the most parallel world axis.

    The clearest match is assigned first, so that an oblique grid gets three different axes.

    >>> orientation_of(np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]]))
    Orientation(axes=(2, 0, 1), flips=(False, True, False))
    """
    directions = np.asarray(affine, float)[:3, :3] / spacing_of(affine)
    # The nearest rotation to a sheared or oblique grid (polar decomposition), as nibabel does.
    u, _, vt = np.linalg.svd(directions)
    left = np.abs(u @ vt)
    axes, flips = [0, 0, 0], [False, False, False]
    for _ in range(3):
        world, axis = (int(i) for i in np.unravel_index(np.argmax(left), left.shape))
        axes[world] = axis
        flips[world] = bool((u @ vt)[world, axis] < 0)
        left[world, :] = left[:, axis] = -1
    return Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def to_ras(array: NDArray, orientation: Orientation) -> NDArray:
    """A view of `(..., X, Y, Z)` with axes permuted and mirrored by the orientation."""
    lead = array.ndim - 3
    turned = array.transpose(*range(lead), *(lead + axis for axis in orientation.axes))
    steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in orientation.flips)
    return turned[(..., *steps)]


def from_ras(array: NDArray, orientation: Orientation) -> NDArray:
    """The inverse of `to_ras`: a view of `(..., X, Y, Z)` in the file's own order."""
    lead = array.ndim - 3
    steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in orientation.flips)
    inverse = np.argsort(orientation.axes)
    return array[(..., *steps)].transpose(*range(lead), *(lead + int(axis) for axis in inverse))


def affine_to_ras(affine: Affine, shape: tuple[int, ...], orientation: Orientation) -> Affine:
    """The affine of the result of `to_ras` for an array of this native `(X, Y, Z)` shape.

    >>> lps = np.diag([-1.0, -1.0, 2.0, 1.0])
    >>> affine_to_ras(lps, (10, 20, 5), orientation_of(lps))[:3].tolist()
    [[1.0, 0.0, 0.0, -9.0], [0.0, 1.0, 0.0, -19.0], [0.0, 0.0, 2.0, 0.0]]
    """
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        turn[axis, new] = -1 if flip else 1
        turn[axis, 3] = shape[axis] - 1 if flip else 0
    return np.asarray(affine, float) @ turn + 0.0


def difference_of_grids(
    shape: tuple[int, ...], affine: Affine, other_shape: tuple[int, ...], other_affine: Affine
) -> str | None:
    """The difference between two grids in one phrase; None if they are equal.

    Corners may differ by a hundredth of a voxel plus 0.1 mm, because headers store float32 and quaternions.

    >>> grid = np.diag([1.0, 1.0, 1.0, 1.0])
    >>> difference_of_grids((4, 4, 4), grid, (4, 4, 5), grid)
    'shape (4, 4, 4) against (4, 4, 5)'
    >>> moved = grid.copy(); moved[0, 3] = 10
    >>> difference_of_grids((4, 4, 4), grid, (4, 4, 4), moved)
    'origin differs by 10 mm'
    """
    if tuple(shape) != tuple(other_shape):
        return f"shape {tuple(shape)} against {tuple(other_shape)}"
    spacing, other_spacing = spacing_of(affine), spacing_of(other_affine)
    if not np.allclose(spacing, other_spacing, rtol=1e-3, atol=1e-3):
        return f"spacing {_shown(spacing)} mm against {_shown(other_spacing)} mm"
    directions, other_directions = affine[:3, :3] / spacing, other_affine[:3, :3] / other_spacing
    if not np.allclose(directions, other_directions, atol=5e-3):
        return f"orientation {_codes(affine)} against {_codes(other_affine)}"
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T
    gap = np.abs(voxel_to_world(affine, corners) - voxel_to_world(other_affine, corners)).max()
    if gap > 0.1 + 0.01 * spacing.min():
        return f"origin differs by {gap:.3g} mm"
    return None


def _shown(numbers: Sequence[float] | NDArray) -> str:
    return "x".join(f"{number:.4g}" for number in numbers)


def _codes(affine: Affine) -> str:
    """Orientation as letters, e.g. "LPS", with the angle if it is oblique."""
    orientation = orientation_of(affine)
    letters = [""] * 3
    for world, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        letters[axis] = ("LPI" if flip else "RAS")[world]
    directions = np.abs(affine[:3, :3] / spacing_of(affine)).max(axis=0)
    angle = np.degrees(np.arccos(np.clip(directions.min(), -1, 1)))
    return "".join(letters) + (f" ({angle:.1f} degrees oblique)" if angle > 0.5 else "")
