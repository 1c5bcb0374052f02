"""Area of a mask's surface at every corner between voxels, from the eight voxels that meet there.

The surface is that of marching cubes: one polygon around each edge-connected group of the eight voxels,
through the midpoints of the edges that leave the group. The areas equal those of DeepMind's surface-distance
(https://github.com/google-deepmind/surface-distance), whose table of 256 normals was made by hand.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

Voxel = tuple[int, int, int]

VOXELS: tuple[Voxel, ...] = tuple(itertools.product((0, 1), repeat=3))  # type: ignore[assignment]
"""The eight voxels at a corner; voxel k stands for bit k of a code."""


def area_of_codes(spacing: NDArray) -> NDArray:
    """Surface area, mm², for each of the 256 ways in which a mask can contain the eight voxels at a corner.

    `spacing` is `(3,)` in mm. Bit `4 * x + 2 * y + z` of the index: whether the voxel at offset (x, y, z) is
    inside.

    >>> areas = area_of_codes(np.array([1.0, 1.0, 1.0]))
    >>> [round(float(areas[code]), 3) for code in (0b00000000, 0b00000001, 0b00001111, 0b11111111)]
    [0.0, 0.217, 1.0, 0.0]
    """
    triangles, owners = _triangles()
    a, b, c = (triangles * spacing).transpose(1, 0, 2)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return np.bincount(owners, weights=areas, minlength=256)


@functools.cache
def _triangles() -> tuple[NDArray, NDArray]:
    """All triangles of all codes, `(n, 3, 3)` in voxels, and the code each belongs to."""
    triangles, owners = [], []
    for code in range(1, 255):
        group = {voxel for k, voxel in enumerate(VOXELS) if code >> k & 1}
        # Inside and outside are equivalent: the fewer of the two are wrapped, each connected part alone.
        fewer = group if len(group) <= 4 else set(VOXELS) - group
        for part in _connected_parts(fewer):
            mesh = _mesh(_polygon(part))
            triangles.extend(mesh)
            owners.extend([code] * len(mesh))
    return np.array(triangles), np.array(owners)


def _connected_parts(voxels: set[Voxel]) -> list[set[Voxel]]:
    left, parts = set(voxels), []
    while left:
        part, front = set(), {min(left)}
        while front:
            part |= front
            front = {v for v in left - part if any(_touch(v, other) for other in front)}
        left -= part
        parts.append(part)
    return parts


def _touch(a: Voxel, b: Voxel) -> bool:
    return sum(abs(i - j) for i, j in zip(a, b, strict=True)) == 1


def _polygon(part: set[Voxel]) -> NDArray:
    """Midpoints of the edges that leave the part, in the order in which they surround it."""
    edges = [
        (inside, out) for inside in sorted(part) for out in VOXELS if out not in part and _touch(inside, out)
    ]
    ring, left = [edges[0]], edges[1:]
    while left:
        # The next edge is one that lies with the last one on a face of the cube.
        ring.append(next(edge for edge in left if (np.ptp([*ring[-1], *edge], axis=0) == 0).any()))
        left.remove(ring[-1])
    return np.array(ring).mean(axis=1)


def _mesh(polygon: NDArray) -> list[NDArray]:
    """The polygon in triangles: the triangulation of the largest area on a grid of spacing 1.

    This reproduces the table of surface-distance; for a plane polygon all triangulations are equal.
    """

    def area(triangles: list[NDArray]) -> float:
        return sum(float(np.linalg.norm(np.cross(b - a, c - a))) for a, b, c in triangles)

    return max(_triangulations(polygon), key=area)


def _triangulations(polygon: NDArray) -> list[list[NDArray]]:
    if len(polygon) < 3:
        return [[]]
    last = len(polygon) - 1
    return [
        [*left, polygon[[0, k, last]], *right]
        for k in range(1, last)
        for left in _triangulations(polygon[: k + 1])
        for right in _triangulations(polygon[k:])
    ]
