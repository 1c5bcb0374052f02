"""Voxel counts and metrics of them: Dice, IoU, precision, recall, specificity, volumes.

A ratio with denominator 0 is NaN here; `rules` defines the scores of empty masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Overlap of two masks, in voxels."""

    tp: int
    fp: int
    fn: int
    tn: int
    voxel_ml: float = 1e-3

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp


def counts_of(joint: NDArray, members: Sequence[int], voxel_ml: float) -> Counts:
    """Counts of the region of the labels `members`.

    `joint` is `(n, n)`: voxels with reference label i and prediction label j.
    """
    rows = list(members)
    tp = int(joint[rows][:, rows].sum())
    in_reference, in_prediction = int(joint[rows].sum()), int(joint[:, rows].sum())
    outside = int(joint.sum()) - in_reference - in_prediction + tp
    return Counts(tp, in_prediction - tp, in_reference - tp, outside, voxel_ml)


def dice(counts: Counts) -> float:
    """2 |A ∩ B| / (|A| + |B|).

    >>> dice(Counts(tp=3, fp=1, fn=2, tn=0))
    0.6666666666666666
    """
    return _ratio(2 * counts.tp, counts.reference + counts.prediction)


def iou(counts: Counts) -> float:
    """|A ∩ B| / |A ∪ B|."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def precision(counts: Counts) -> float:
    """Fraction of the prediction that is correct; undefined if nothing was predicted."""
    return _ratio(counts.tp, counts.prediction)


def recall(counts: Counts) -> float:
    """Fraction of the reference that was found (sensitivity); undefined if the reference is empty."""
    return _ratio(counts.tp, counts.reference)


def specificity(counts: Counts) -> float:
    """Fraction of the background of the reference that was not predicted; near 1 for small structures."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def volume_reference_ml(counts: Counts) -> float:
    """Volume of the reference, ml."""
    return counts.reference * counts.voxel_ml


def volume_prediction_ml(counts: Counts) -> float:
    """Volume of the prediction, ml."""
    return counts.prediction * counts.voxel_ml


def volume_difference_ml(counts: Counts) -> float:
    """Prediction minus reference, ml: positive if too much was predicted."""
    return (counts.prediction - counts.reference) * counts.voxel_ml


def volume_difference_relative(counts: Counts) -> float:
    """Prediction minus reference, as a fraction of the reference's volume."""
    return _ratio(counts.prediction - counts.reference, counts.reference)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
