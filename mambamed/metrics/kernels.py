"""The inner loops of the metrics: `compiled` (numba) or `plain` (numpy and scipy), with one interface.

Masks are not materialized: a region is a table `member` of 256 flags over a label map of bytes, and a
`box` `(3, 2)` of first and past-the-last indices. Points of a surface are stored column by column, where a
column is all voxels of one (x, y): `depths[starts[c]:starts[c + 1]]` are the increasing z of column
`c = x * ny + y`.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.metrics import plain

# Columns that the search may visit, on average per point, before the rest is searched with a k-d tree: far
# from the other surface the columns within reach grow with the square of the distance.
_COLUMNS_PER_POINT = 600


@dataclass(frozen=True)
class Points:
    """Points of a grid, column by column."""

    shape: tuple[int, int]  # `(nx, ny)` of the grid's first two axes
    starts: NDArray  # `(nx * ny + 1,)` where each column begins in `depths`
    depths: NDArray  # `(n,)` index along the third axis

    def __len__(self) -> int:
        return len(self.depths)

    def positions(self) -> NDArray:
        """`(n, 3)` grid indices."""
        return plain.positions(self.starts, self.depths, self.shape[1])


class Loops:
    """The inner loops, by the module `mambamed.metrics.compiled` or, for None, by numpy and scipy."""

    def __init__(self, compiled) -> None:
        self._compiled = compiled

    @property
    def name(self) -> str:
        """Implementation: "numba" or "numpy"."""
        return "numba" if self._compiled else "numpy"

    def tally(self, reference: NDArray, prediction: NDArray, count: int) -> tuple[NDArray, NDArray, NDArray]:
        """Count every pair of labels, and find the bounding box of each label, in one pass.

        Args:
            reference, prediction: `(X, Y, Z)` uint8, C-contiguous, values below `count`.
            count: number of labels, including background.

        Returns: `(count, count)` voxels with reference label i and prediction label j; boxes `(count, 3, 2)`
        of the labels in reference and prediction (background: unset; absent: empty).
        """
        joint = np.zeros((count, count), np.int64)
        boxes = np.zeros((2, count, 3, 2), np.int64)
        if self._compiled:
            boxes[..., 0] = np.iinfo(np.int64).max
            words = [
                array.reshape(-1)[: array.size // 8 * 8].view(np.uint64) for array in (reference, prediction)
            ]
            self._compiled.tally(reference, prediction, *words, joint, boxes[0], boxes[1])
            boxes[boxes[..., 1] == 0] = 0
        else:
            plain.tally(reference, prediction, joint, boxes[0], boxes[1])
        return joint, boxes[0], boxes[1]

    def surface_voxels(self, labels: NDArray, member: NDArray, box: NDArray) -> Points:
        """Voxels of the region that have a 6-neighbor outside of it; outside the box is background."""
        nx, ny, _ = (int(high - low) for low, high in box)
        starts, depths = (self._compiled or plain).surface_voxels(labels, member, box)
        return Points((nx, ny), starts, depths)

    def surface_corners(self, labels: NDArray, member: NDArray, box: NDArray) -> tuple[Points, NDArray]:
        """Corners of voxels on the surface, on a grid one larger than the box, and their codes (1..254).

        Bit `4 * x + 2 * y + z` of a code: whether the voxel at offset (x, y, z) belongs to the region.
        """
        nx, ny, _ = (int(high - low) for low, high in box)
        starts, depths, codes = (self._compiled or plain).surface_corners(labels, member, box)
        return Points((nx + 1, ny + 1), starts, depths), codes

    def distances(self, queries: Points, targets: Points, spacing: NDArray) -> NDArray:
        """Distance from every query to the nearest target, mm; both have at least one point."""
        squared = np.empty(len(queries))
        done, ny = 0, queries.shape[1]
        if self._compiled:
            done = self._compiled.nearest(
                queries.starts, queries.depths, targets.starts, targets.depths, *queries.shape, spacing**2,
                squared, _COLUMNS_PER_POINT * len(queries),
            )  # fmt: skip
        if done < len(queries):
            plain.nearest(
                queries.starts, queries.depths, targets.starts, targets.depths, ny, spacing, squared, done
            )
        return np.sqrt(squared, out=squared)


@functools.cache
def loops(prefer: str | None = None) -> Loops:
    """The loops: "numba", "numpy", or None for numba if it can be imported."""
    if prefer == "numpy":
        return Loops(None)
    try:
        from mambamed.metrics import compiled
    except ImportError as error:
        if prefer == "numba":
            raise
        logging.getLogger(__name__).info("metrics without numba (%s): slower, same values", error)
        return Loops(None)
    return Loops(compiled)
