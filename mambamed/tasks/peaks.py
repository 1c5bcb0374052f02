"""From heatmaps to points: the peak of each, found while the planes of a volume come in, placed between
voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reading = Literal["softmax", "sigmoid", "plain"]
Method = Literal["gaussian", "soft-argmax", "argmax"]

_WINDOW_SIGMAS = 3.0
_LEAST_PART = 0.1  # of the peak; what is lower tells nothing of where the peak is
_TRUST_IN_WIDTH = 1e-2  # weight of the known width beside the heatmap's own, in a fit
_FURTHEST_VOXELS = 1.5  # from the highest voxel to where a fit may put the peak


@dataclass(frozen=True)
class HeatmapForm:
    """What a network's heatmaps are.

    Attributes:
        landmarks: K.
        reading: how numbers become heights: "softmax" with "nowhere" as the alternative to all voxels,
            "sigmoid" of each voxel, or "plain", as they are.
        method: how a peak becomes a point.
        sigma_voxels: width of a peak along x, y, z.
        offsets: whether 3 K channels follow, at which every voxel says how far away the point is, in sigmas.
    """

    landmarks: int
    reading: Reading
    method: Method
    sigma_voxels: tuple[float, float, float]
    offsets: bool = False

    @property
    def channels(self) -> int:
        """What the network answers."""
        return self.landmarks * (4 if self.offsets else 1)

    @property
    def reach(self) -> tuple[int, int, int]:
        """Voxels around the highest one that decide where the point is."""
        x, y, z = (max(1, math.ceil(_WINDOW_SIGMAS * sigma)) for sigma in self.sigma_voxels)
        return x, y, z


class PeakFinder:
    """Finds the peaks of a volume whose planes come one after the other; keeps a few planes only.

    Args:
        form: of the heatmaps.
        axis: of the volume along which the planes come.
    """

    def __init__(self, form: HeatmapForm, axis: int = 0) -> None:
        self._form, self._axis = form, axis
        self._reach = form.reach[axis]
        self._held: NDArray | None = None  # planes that may still be near a peak: (n, channels, A, B)
        self._first = 0  # number of the first held plane
        self._next = 0  # the first plane in which no peak was looked for yet
        count = form.landmarks
        self._height = np.full(count, -np.inf)
        self._evidence = np.full(count, -np.inf)  # log of the sum of exp over all voxels
        self._boxes: list[tuple[NDArray, tuple[int, int, int], tuple[int, int, int]] | None] = [None] * count

    def take(self, planes: NDArray) -> None:
        """The next `(n, channels, A, B)` planes; A and B are the two other axes, in their order."""
        planes = np.asarray(planes, np.float32)
        if self._form.reading == "softmax":
            self._gather(planes[:, : self._form.landmarks])
        self._held = planes if self._held is None else np.concatenate([self._held, planes])
        self._look(self._first + len(self._held) - self._reach)
        spare = self._next - self._reach - self._first
        if spare > 0:
            self._held, self._first = self._held[spare:].copy(), self._first + spare

    def found(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`(K, 3)` voxels, x, y, z, and `(K,)` scores from 0 to 1: how sure it is that a landmark is there.

        Call it once, after the last plane.
        """
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
        """Look for higher peaks in the planes before `stop`; cut out what lies around them."""
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
        """A box `(1 or 4, X, Y, Z)` of landmark k, its first voxel, and the peak's voxel in it."""
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
    """Where the point lies, between voxels.

    Args:
        box: `(1, X, Y, Z)` numbers of one heatmap, or `(4, X, Y, Z)` with offsets.
        peak: its highest voxel.
        form: of the heatmap.

    Returns:
        `(3,)` voxels of the box.
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
    if top <= 0:  # nowhere a peak: its highest voxel is all there is
        return (numbers == top).astype(float)
    return np.clip(numbers / top, 0, 1)


def _center(heights: NDArray) -> NDArray[np.float64]:
    """Center of mass of what reaches a tenth of the peak."""
    weights = np.clip(heights - _LEAST_PART, 0, None)
    total = weights.sum()
    return np.array([(weights * places).sum() / total for places in np.indices(heights.shape)])


def _voted(heights: NDArray, offsets: NDArray, form: HeatmapForm) -> NDArray[np.float64]:
    """Mean of the places that the voxels of the peak point to, the higher ones more."""
    weights = np.clip(heights - _LEAST_PART, 0, None)
    sigma = np.reshape(form.sigma_voxels, (3, 1, 1, 1))
    meant = np.indices(heights.shape) + offsets * sigma
    return (weights * meant).sum((1, 2, 3)) / weights.sum()


def _fitted(heights: NDArray, peak: tuple[int, int, int], form: HeatmapForm) -> NDArray[np.float64] | None:
    """The center of a Gaussian with axes along the grid's, by least squares on the log of the heights.

    Heights weigh as their square (Guo 2011, "A simple algorithm for fitting a Gaussian function"), which
    undoes the logarithm's love of small ones. The known width counts a little, so that a peak at the rim,
    seen from one side, is placed as well.

    Returns:
        `(3,)` voxels; None where this is no peak.
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
