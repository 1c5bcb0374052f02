"""Counts of voxels and what follows from them: Dice, IoU, precision, recall, specificity, volumes.

A ratio whose denominator is empty is NaN here; what an empty mask counts for is decided by `rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """How two masks overlap, in voxels.

    Attributes:
        tp: in both.
        fp: in the prediction only.
        fn: in the reference only.
        tn: in neither.
        voxel_ml: volume of a voxel, ml.
    """

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
    """Counts of a region from the counts of every pair of labels.

    Args:
        joint: `(n, n)` voxels with reference label i and prediction label j.
        members: rows of `joint` that belong to the region.
        voxel_ml: volume of a voxel, ml.
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
    """Part of the prediction that is right; undefined where nothing was predicted."""
    return _ratio(counts.tp, counts.prediction)


def recall(counts: Counts) -> float:
    """Part of the reference that was found (sensitivity); undefined where there was nothing to find."""
    return _ratio(counts.tp, counts.reference)


def specificity(counts: Counts) -> float:
    """Part of what is outside the reference that was left alone; near 1 for any small structure."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def volume_reference_ml(counts: Counts) -> float:
    """Volume of the reference, ml."""
    return counts.reference * counts.voxel_ml


def volume_prediction_ml(counts: Counts) -> float:
    """Volume of the prediction, ml."""
    return counts.prediction * counts.voxel_ml


def volume_difference_ml(counts: Counts) -> float:
    """Prediction minus reference, ml: positive where too much was predicted."""
    return (counts.prediction - counts.reference) * counts.voxel_ml


def volume_difference_relative(counts: Counts) -> float:
    """The same as a fraction of the reference's volume."""
    return _ratio(counts.prediction - counts.reference, counts.reference)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
