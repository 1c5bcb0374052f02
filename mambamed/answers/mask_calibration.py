"""The temperature that calibrates the probabilities of masks, chosen on voxels of the validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.metrics.calibration import fit_binary_temperature, fit_temperature
from mambamed.run.calibration import read_calibration
from mambamed.volumes.ensemble import Ensemble

VOXELS_PER_CASE = 4000
_MARGIN = 5  # voxels around the structures


@dataclass(frozen=True)
class VoxelSample:
    """Some voxels of a case: `(n, K)` logits, and their truth.

    Attributes:
        truth: `(n,)` output channel of softmax; `(n, K)` bool of regions.
    """

    logits: NDArray[np.float32]
    truth: NDArray


def sample_voxels(
    logits: NDArray[np.floating], truth: NDArray, known: NDArray[np.bool_], seed: int = 0
) -> VoxelSample:
    """Voxels in the box around the predicted and the true structures, at most `VOXELS_PER_CASE` of them.

    Most of a volume is background that no network doubts, and would decide the temperature alone.

    Args:
        logits: `(K, X, Y, Z)`.
        truth: `(X, Y, Z)` index of the true channel, channel 0 being the background; for regions
            `(K, X, Y, Z)` bool.
        known: `(X, Y, Z)`: the voxels that are scored.

    Source:
        Mehrtash et al. 2020, IEEE Trans. Med. Imaging 39:3868: the calibration of masks is measured in the
        bounding box of the structure, with a margin.
    """
    by_regions = truth.ndim == 4
    predicted = (logits > 0).any(0) if by_regions else logits.argmax(0) > 0
    places = np.argwhere((predicted | (truth.any(0) if by_regions else truth > 0)) & known)
    if not len(places):
        places = np.argwhere(known)[:1]
    low, high = np.maximum(places.min(0) - _MARGIN, 0), places.max(0) + _MARGIN + 1
    box = (..., *(slice(a, b) for a, b in zip(low, high, strict=True)))
    chosen = np.flatnonzero(known[box])
    if len(chosen) > VOXELS_PER_CASE:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, VOXELS_PER_CASE, replace=False))
    scores, answers = (array[box].reshape(*array.shape[:-3], -1)[..., chosen].T for array in (logits, truth))
    return VoxelSample(np.asarray(scores, np.float32), answers)


def temperature_of(samples: Sequence[VoxelSample]) -> float | None:
    """The temperature with the largest likelihood over the voxels of all cases; of regions, over all regions.

    None if the voxels are too few or all alike; see `fit_temperature`.
    """
    if not samples:
        return None
    logits = np.concatenate([sample.logits for sample in samples])
    truth = np.concatenate([sample.truth for sample in samples])
    if truth.ndim == 2:
        return fit_binary_temperature(logits.ravel(), truth.ravel())
    return fit_temperature(logits, truth)


def ensemble_temperature(ensemble: Ensemble) -> tuple[float, str]:
    """The temperature of an ensemble, and where it is from: the geometric mean of those of its networks.

    1 for a network whose temperature was not chosen.
    """
    found = [read_calibration(member.run, fold) for member in ensemble.members for fold in member.folds]
    known = [each.temperature for each in found if each is not None and each.temperature is not None]
    if not known:
        return 1.0, "temperature 1: none was chosen on validation cases; probabilities are not calibrated"
    temperature = float(np.exp(np.sum(np.log(known)) / len(found)))
    missing = (
        f"; {len(found) - len(known)} of {len(found)} networks have none" if len(known) < len(found) else ""
    )
    return temperature, f"temperature {temperature:.3g}, chosen on validation cases{missing}"
