"""Exact histograms of the foreground intensities, per case and summed over a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.preparation.image_kernels import foreground_histogram

BINS_A_UNIT = 16
"""Resolution for intensities that are not integers."""

_LOWEST, _HIGHEST = -32768, 65536


@dataclass(frozen=True)
class Histogram:
    """Number of voxels per intensity; exact for integers from -32768 to 65536."""

    first: int  # number of the first bin; bin b stands for intensity `b / bins_a_unit`
    bins_a_unit: int
    counts: NDArray[np.int64]  # voxels per bin

    @classmethod
    def of(cls, image: NDArray, label: NDArray) -> Histogram:
        """Count an int16 or float32 `(X, Y, Z)` where its label (uint8, int16 or int32) is positive."""
        whole = image.dtype.kind == "i" or not np.any(np.mod(image, 1))
        bins = 1 if whole else BINS_A_UNIT
        low, high = float(image.min()), float(image.max())
        first = int(np.floor(max(low, _LOWEST))) * bins
        last = int(np.ceil(min(high, _HIGHEST))) * bins
        counts = foreground_histogram(image, label, first / bins, bins, max(1, last - first + 1))
        used = np.flatnonzero(counts)
        if not len(used):
            return cls(0, bins, np.zeros(0, np.int64))
        return cls(first + int(used[0]), bins, counts[used[0] : used[-1] + 1].copy())

    @classmethod
    def total(cls, parts: Iterable[Histogram]) -> Histogram:
        """The sum over cases."""
        parts = [part for part in parts if len(part.counts)]
        if not parts:
            return cls(0, 1, np.zeros(0, np.int64))
        bins = max(part.bins_a_unit for part in parts)
        finer = [(part, bins // part.bins_a_unit) for part in parts]
        first = min(part.first * step for part, step in finer)
        last = max((part.first + len(part.counts) - 1) * step for part, step in finer)
        counts = np.zeros(last - first + 1, np.int64)
        for part, step in finer:
            start = part.first * step - first
            counts[start : start + len(part.counts) * step : step] += part.counts
        return cls(first, bins, counts)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """Same as `numpy.quantile` over all voxels (linear interpolation); needs at least one voxel.

        >>> Histogram(10, 1, np.array([1, 0, 1])).quantile(0.25)
        10.5
        """
        position = q * (self.voxels - 1)
        ends = np.cumsum(self.counts)
        below, above = (
            (self.first + int(np.searchsorted(ends, rank, side="right"))) / self.bins_a_unit
            for rank in (int(np.floor(position)), int(np.ceil(position)))
        )
        return float(below + (position - np.floor(position)) * (above - below))

    def mean_and_std(self) -> tuple[float, float]:
        """Of all voxels; needs at least one."""
        values = (self.first + np.arange(len(self.counts))) / self.bins_a_unit
        mean = float((values * self.counts).sum() / self.voxels)
        return mean, float(np.sqrt(((values - mean) ** 2 * self.counts).sum() / self.voxels))
