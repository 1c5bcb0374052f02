"""Polygons of a slice: from contours to voxels by the even-odd rule, and from voxels to their outline.

Coordinates are voxel indices of the slice: the center of voxel (0, 0) is the point (0, 0). A voxel is inside
if its center is, so the outline of a mask, which runs along the edges of voxels, gives the same mask again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[int, int]

_MOST_CROSSINGS = 2**20  # of edges and rows at once, which bounds the memory


def filled(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """`(X, Y)` mask of the voxels whose center is inside an odd number of closed polygons.

    A polygon inside another is thus a hole, and a hole may also be joined to its outline by a channel without
    width. A center on an edge is inside if the polygon is at its greater x or y.

    Args:
        polygons: `(n, 2)` corners.
        shape: of the slice; what reaches out of it is cut.

    >>> filled([np.array([[-0.5, -0.5], [1.5, -0.5], [1.5, 0.5], [-0.5, 0.5]])], (3, 2)).astype(int).tolist()
    [[1, 0], [1, 0], [0, 0]]
    """
    width, height = shape
    crossings = np.zeros((width + 1, height), np.int64)
    start = np.concatenate([polygon for polygon in polygons])
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    # The centers at y between the ends of an edge, the lower end included.
    low = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1])), 0, height).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1])), 0, height).astype(np.int64)
    for few in _in_parts(high - low):
        counts = high[few] - low[few]
        edge = np.repeat(np.arange(few.start, few.start + len(counts)), counts)
        y = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        x = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        np.add.at(crossings, (np.clip(np.ceil(x), 0, width).astype(np.int64), y), 1)
    return (np.cumsum(crossings, axis=0)[:width] % 2).astype(bool)


def _in_parts(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Edges with at most `_MOST_CROSSINGS` crossings together, or a single edge."""
    total, start = np.cumsum(counts), 0
    while start < len(counts):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + _MOST_CROSSINGS, "right")))
        yield slice(start, stop)
        start = stop


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed polygons `(n, 2)` along the edges of the voxels of a mask `(X, Y)`, one per 4-connected part.

    Holes are joined to their outline by channels without width, as the standard asks of CLOSED_PLANAR.

    Source: DICOM PS3.3 C.8.8.6.3 (keyhole technique).
    """
    parts = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    outer: dict[int, list[Point]] = {}
    holes: dict[int, list[list[Point]]] = {}
    for part, ring in _rings(parts):
        if _area(ring) > 0:
            outer[part] = ring
        else:
            holes.setdefault(part, []).append(ring)
    found = []
    for part, ring in outer.items():
        for hole in sorted(holes.get(part, ()), key=min):
            ring = _joined(ring, hole)
        found.append(_corners(ring) - 0.5)
    return found


def _rings(parts: NDArray[np.int32]) -> list[tuple[int, list[Point]]]:
    """The closed rings of unit edges around each part, which lies on their left; part and corners."""
    padded = np.pad(parts, 1)
    ways: dict[Point, list[tuple[Point, int]]] = {}
    # Side of a voxel -> neighbor across it, start and end of the edge.
    sides = {
        (0, -1): ((0, 0), (1, 0)),
        (1, 0): ((1, 0), (1, 1)),
        (0, 1): ((1, 1), (0, 1)),
        (-1, 0): ((0, 1), (0, 0)),
    }
    for (dx, dy), (a, b) in sides.items():
        x_range = slice(1 + dx, padded.shape[0] - 1 + dx)
        y_range = slice(1 + dy, padded.shape[1] - 1 + dy)
        for x, y in np.argwhere((parts > 0) & (padded[x_range, y_range] == 0)).tolist():
            ways.setdefault((x + a[0], y + a[1]), []).append(((x + b[0], y + b[1]), int(parts[x, y])))
    rings, done = [], set()
    for first, edges in ways.items():
        for end, part in edges:
            ring, edge = [], (first, end)
            while edge not in done:
                done.add(edge)
                ring.append(edge[0])
                before, here = edge
                # Where two voxels touch in a corner, the ring stays at the same one.
                edge = here, min(ways[here], key=functools.partial(_right, before, here))[0]
            if ring:
                rings.append((part, ring))
    return rings


def _right(before: Point, here: Point, way: tuple[Point, int]) -> int:
    """1 for a turn to the right, -1 to the left."""
    (x, y), _ = way
    return (here[1] - before[1]) * (x - here[0]) - (here[0] - before[0]) * (y - here[1])


def _area(ring: Sequence[Point]) -> int:
    """Twice the area, positive if the ring runs counter-clockwise."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))


def _joined(ring: list[Point], hole: list[Point]) -> list[Point]:
    """A ring and a hole of it, with a channel from the leftmost corner of the hole to the next corner left of
    it. Holes further to the left are already part of the ring."""
    corner = min(hole)
    beside = [place for place, (x, y) in enumerate(ring) if y == corner[1] and x <= corner[0]]
    place = max(beside, key=lambda each: ring[each][0])
    first = hole.index(corner)
    turned = [*hole[first:], *hole[:first], corner]
    return [*ring[: place + 1], *turned, *ring[place:]]


def _corners(ring: Sequence[Point]) -> NDArray[np.float64]:
    """The corners without those on a straight line."""
    points = np.array(ring, float)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    same = (before == 0).all(axis=1)
    along = before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]
    onward = (before * after).sum(axis=1) > 0
    return points[~same & ~(along & onward)]
