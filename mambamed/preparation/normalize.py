"""Intensities of one channel brought to a common scale, as the plan says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.preparation.plan import Normalization

_LEAST_STD = 1e-8


def normalized(
    channel: NDArray, normalization: Normalization, mask: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Normalize one channel on its native, cropped grid.

    Args:
        channel: `(X, Y, Z)` of any real type.
        normalization: scheme and, for "ct", its numbers.
        mask: what "zscore_nonzero" counts; the rest becomes 0.

    Returns:
        A new float32 array in the channel's memory order. A constant channel becomes 0 by the z-schemes.

    Source:
        nnU-Net's ZScoreNormalization, CTNormalization and NoNormalization; sums here are in float64.

    >>> normalized(np.array([[[1.0, 3.0]]]), Normalization("zscore"), None).ravel().tolist()
    [-1.0, 1.0]
    """
    if normalization.scheme == "ct":
        assert normalization.low is not None and normalization.high is not None
        assert normalization.mean is not None and normalization.std is not None
        image = np.clip(channel, normalization.low, normalization.high, dtype=np.float32, casting="unsafe")
        image -= np.float32(normalization.mean)
        image /= np.float32(max(normalization.std, _LEAST_STD))
        return image
    image = channel.astype(np.float32)
    if normalization.scheme == "none":
        return image
    if normalization.scheme == "zscore_nonzero" and mask is not None and not mask.all():
        mean, std = _mean_and_std(image[mask])
        image -= np.float32(mean)
        image /= np.float32(max(std, _LEAST_STD))
        image *= mask
        return image
    mean, std = _mean_and_std(image)
    image -= np.float32(mean)
    image /= np.float32(max(std, _LEAST_STD))
    return image


def _mean_and_std(values: NDArray[np.float32]) -> tuple[float, float]:
    """In float64, so that an outlier does not make the square overflow."""
    if values.size == 0:
        return 0.0, 1.0
    mean = float(values.mean(dtype=np.float64))
    return mean, float(values.std(dtype=np.float64))
