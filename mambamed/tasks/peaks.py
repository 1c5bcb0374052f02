"""Subvoxel positions of the peaks of heatmaps, found while the planes of a volume arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reading = Literal["softmax", "sigmoid", "plain"]
Method = Literal["gaussian", "soft-argmax", "argmax"]

_WINDOW_SIGMAS = 3.0
_LEAST_PART = 0.1  # of the peak; lower voxels are ignored
_TRUST_IN_WIDTH = 1e-2  # weight of the known width relative to the heatmap's own, in a fit
_FURTHEST_VOXELS = 1.5  # maximum distance of a fitted peak from the highest voxel


@dataclass(frozen=True)
class HeatmapForm:
    """The form of a network's heatmaps.

    Attributes:
        landmarks: K.
        reading: "softmax" (over all voxels and "absent"), "sigmoid" of each voxel, or "plain" values.
        method: how a peak becomes a point.
        sigma_voxels: width of a peak along x, y, z.
        offsets: whether 3 K further channels hold the offset to the point at every voxel, in sigmas.
    """

    landmarks: int
    reading: Reading
    method: Method
    sigma_voxels: tuple[float, float, float]
    offsets: bool = False

    @property
    def channels(self) -> int:
        """Number of output channels of the network."""
        return self.landmarks * (4 if self.offsets else 1)

    @property
    def reach(self) -> tuple[int, int, int]:
        """Voxels around the highest one that are used to compute the position, per axis."""
        x, y, z = (max(1, math.ceil(_WINDOW_SIGMAS * sigma)) for sigma in self.sigma_voxels)
        return x, y, z


class PeakFinder:
    """Finds the peaks of a volume whose planes arrive one after the other along `axis`; keeps few planes."""

    def __init__(self, form: HeatmapForm, axis: int = 0) -> None:
        self._form, self._axis = form, axis
        self._reach = form.reach[axis]
        self._held: NDArray | None = None  # planes that may be near a later peak: (n, channels, A, B)
        self._first = 0  # number of the first held plane
        self._next = 0  # the first plane that has not been searched
        count = form.landmarks
        self._height = np.full(count, -np.inf)
        self._evidence = np.full(count, -np.inf)  # log of the sum of exp over all voxels
        self._boxes: list[tuple[NDArray, tuple[int, int, int], tuple[int, int, int]] | None] = [None] * count

    def take(self, planes: NDArray) -> None:
        """Add the next `(n, channels, A, B)` planes; A and B are the two other axes, in their order."""
        planes = np.asarray(planes, np.float32)
        if self._form.reading == "softmax":
            self._gather(planes[:, : self._form.landmarks])
        self._held = planes if self._held is None else np.concatenate([self._held, planes])
        self._look(self._first + len(self._held) - self._reach)
        spare = self._next - self._reach - self._first
        if spare > 0:
            self._held, self._first = self._held[spare:].copy(), self._first + spare

    def found(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`(K, 3)` voxels (x, y, z) and `(K,)` scores from 0 to 1; call it once, after the last plane."""
        if self._held is not None:
            self._look(self._first + len(self._held))
        points = np.full((self._form.landmarks, 3), np.nan)
        scores = np.zeros(self._form.landmarks)
        for k, entry in enumerate(self._boxes):
            if entry is not None:
                box, start, peak = entry
                points[k] = start + place_peak(box, peak, self._form)
                scores[k] = self._score(k)
        return points, scores

    def _look(self, stop: int) -> None:
        """Search the planes before `stop` for higher peaks, and copy their neighborhoods."""
        held, form = self._held, self._form
        assert held is not None
        if stop <= self._next:
            return
        new = held[self._next - self._first : stop - self._first, : form.landmarks]
        depth, _, a, b = new.shape
        flat = np.ascontiguousarray(new.swapaxes(0, 1)).reshape(form.landmarks, depth * a * b)
        places = flat.argmax(1)
        for k, place in enumerate(places.tolist()):
            if flat[k, place] > self._height[k]:
                self._height[k] = flat[k, place]
                plane, rest = divmod(place, a * b)
                self._boxes[k] = self._around(k, self._next + plane, *divmod(rest, b))
        self._next = stop

    def _around(
        self, k: int, plane: int, row: int, column: int
    ) -> tuple[NDArray, tuple[int, int, int], tuple[int, int, int]]:
        """The neighborhood `(1 or 4, X, Y, Z)` of a peak, its first voxel, and the peak's voxel in it."""
        held, form = self._held, self._form
        assert held is not None
        others = [axis for axis in range(3) if axis != self._axis]
        center = (plane - self._first, row, column)
        reach = (self._reach, form.reach[others[0]], form.reach[others[1]])
        low = [max(0, c - r) for c, r in zip(center, reach, strict=True)]
        n, _, a, b = held.shape
        high = [min(size, c + r + 1) for c, r, size in zip(center, reach, (n, a, b), strict=True)]
        chosen = [k, *(form.landmarks + 3 * k + axis for axis in range(3))] if form.offsets else [k]
        box = held[low[0] : high[0], chosen, low[1] : high[1], low[2] : high[2]]
        start, peak = [0, 0, 0], [0, 0, 0]
        for place, axis in enumerate((self._axis, *others)):
            start[axis] = low[place] + (self._first if place == 0 else 0)
            peak[axis] = center[place] - low[place]
        box = np.moveaxis(box.swapaxes(0, 1), 1, 1 + self._axis).astype(np.float64)
        return box, (start[0], start[1], start[2]), (peak[0], peak[1], peak[2])

    def _gather(self, logits: NDArray) -> None:
        by_landmark = logits.swapaxes(0, 1).reshape(logits.shape[1], -1)
        top = by_landmark.max(1)
        sums = np.log(np.exp(by_landmark - top[:, None]).sum(1, dtype=np.float64)) + top
        self._evidence = np.logaddexp(self._evidence, sums)

    def _score(self, k: int) -> float:
        if self._form.reading == "plain":
            return float(np.clip(self._height[k], 0, 1))
        log_odds = self._evidence[k] if self._form.reading == "softmax" else self._height[k]
        return float(np.exp(-np.logaddexp(0, -log_odds)))


def place_peak(
    box: NDArray[np.float64], peak: tuple[int, int, int], form: HeatmapForm
) -> NDArray[np.float64]:
    """The subvoxel position `(3,)` of a peak in its box.

    Args:
        box: `(1, X, Y, Z)` values of one heatmap, or `(4, X, Y, Z)` with offsets.
        peak: its highest voxel.
    """
    heights = _heights(box[0], box[0][peak], form.reading)
    if form.offsets:
        return _voted(heights, box[1:], form)
    if form.method == "argmax":
        return np.array(peak, float)
    if form.method == "soft-argmax":
        return _center(heights)
    fitted = _fitted(heights, peak, form)
    return _center(heights) if fitted is None else fitted


def _heights(numbers: NDArray, top: float, reading: Reading) -> NDArray:
    """Heights relative to the highest."""
    if reading == "softmax":
        return np.exp(numbers - top)
    if reading == "sigmoid":
        return np.exp(np.logaddexp(0, -top) - np.logaddexp(0, -numbers))
    if top <= 0:  # no peak: only the highest voxel
        return (numbers == top).astype(float)
    return np.clip(numbers / top, 0, 1)


def _center(heights: NDArray) -> NDArray[np.float64]:
    """Center of mass of the voxels above a tenth of the peak."""
    weights = np.clip(heights - _LEAST_PART, 0, None)
    total = weights.sum()
    return np.array([(weights * places).sum() / total for places in np.indices(heights.shape)])


def _voted(heights: NDArray, offsets: NDArray, form: HeatmapForm) -> NDArray[np.float64]:
    """Weighted mean of the positions that the voxels of the peak point to."""
    weights = np.clip(heights - _LEAST_PART, 0, None)
    sigma = np.reshape(form.sigma_voxels, (3, 1, 1, 1))
    meant = np.indices(heights.shape) + offsets * sigma
    return (weights * meant).sum((1, 2, 3)) / weights.sum()


def _fitted(heights: NDArray, peak: tuple[int, int, int], form: HeatmapForm) -> NDArray[np.float64] | None:
    """The center of a Gaussian with axes along the grid's, by least squares on the log of the heights.

    Weighted by the squared heights (Guo 2011, "A simple algorithm for fitting a Gaussian function"), which
    compensates for the logarithm of small values. The known width is a weak prior, so that a peak at the
    border, visible from one side, is found too. Returns None if there is no peak.
    """
    used = heights > _LEAST_PART
    u = (np.argwhere(used) - np.array(peak)).astype(float)
    weight = heights[used]
    known = 0.5 / np.square(form.sigma_voxels)
    rows = np.column_stack([np.ones(len(u)), u, -(u**2)]) * weight[:, None]
    values = np.log(weight) * weight
    trust = _TRUST_IN_WIDTH * np.sqrt((weight**2).sum())
    prior = np.zeros((3, 7))
    prior[:, 4:] = trust * np.eye(3)
    solution, *_ = np.linalg.lstsq(
        np.vstack([rows, prior]), np.concatenate([values, trust * known]), rcond=None
    )
    curvature = solution[4:]
    if (curvature <= 0).any():
        return None
    moved = solution[1:4] / (2 * curvature)
    return None if np.abs(moved).max() > _FURTHEST_VOXELS else np.array(peak) + moved
