"""Normalization of the intensities of one channel, as the plan says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.plan import Ct, MinMax, Normalization, Rgb, Unchanged, ZScoreNonzero
from mambamed.preparation.image_kernels import in_kernel_type, moments
from mambamed.preparation.resample import plane_as_float32
from mambamed.preparation.scale_kernels import scale_into

_LEAST_STD = 1e-8


@dataclass(frozen=True)
class Scaling:
    """A measured normalization of one channel: `(clip(x, low, high) - center) * factor`."""

    low: float  # low and high are infinite without clipping
    high: float
    center: float
    factor: float
    mask: NDArray[np.bool_] | None = None  # `(X, Y, Z)`; the result is 0 outside of it

    @classmethod
    def of(
        cls, channel: NDArray, normalization: Normalization, mask: NDArray[np.bool_] | None = None
    ) -> Scaling:
        """Measure what the scheme needs, in float64.

        Args:
            channel: `(X, Y, Z)` on its native, cropped grid.
            mask: for "zscore_nonzero": voxels that are measured; the others become 0.

        Source:
            nnU-Net's ZScoreNormalization, CTNormalization, RescaleTo01Normalization, RGBTo01Normalization and
            NoNormalization. A constant channel becomes 0, except by "rgb" and "none".
        """
        if isinstance(normalization, Unchanged):
            return cls(-np.inf, np.inf, 0.0, 1.0)
        if isinstance(normalization, Rgb):
            return cls(-np.inf, np.inf, 0.0, 1 / 255)
        if isinstance(normalization, MinMax):
            low, high = float(channel.min()), float(channel.max())
            return cls(-np.inf, np.inf, low, 1 / max(high - low, _LEAST_STD))
        if isinstance(normalization, Ct):
            factor = 1 / max(normalization.std, _LEAST_STD)
            return cls(normalization.low, normalization.high, normalization.mean, factor)
        if not isinstance(normalization, ZScoreNonzero):
            mask = None
        mean, std, _ = moments(in_kernel_type(channel), mask)
        return cls(-np.inf, np.inf, mean, 1 / std if std > _LEAST_STD else 0.0, mask)

    def fill(self, channel: NDArray, out: NDArray) -> None:
        """Write the scaled channel into `out`, float32 or float16, on the same grid."""
        channel = in_kernel_type(channel)
        scale_into(channel, out, self.low, self.high, self.center, self.factor, self.mask)

    def plane(self, plane: NDArray, axis: int, index: int) -> NDArray[np.float32]:
        """One slice, scaled: a new array in the memory order of the slice."""
        values = plane_as_float32(plane)
        if np.isfinite(self.low) or np.isfinite(self.high):
            np.clip(values, np.float32(self.low), np.float32(self.high), out=values)
        values -= np.float32(self.center)
        values *= np.float32(self.factor)
        if self.mask is not None:
            values *= np.moveaxis(self.mask, axis, 0)[index]
        return values
