"""All metrics of all labels and regions of one case, from one pass over the two label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.metrics import METRICS, Metric
from mambamed.metrics.kernels import Loops, loops
from mambamed.metrics.lesion import LesionScores, area_distances, score_lesions
from mambamed.metrics.overlap import Counts, counts_of
from mambamed.metrics.rules import DEFAULT, Presence, Rules
from mambamed.metrics.surface import AreaDistances, VoxelDistances

MAX_LABELS = 255


@dataclass(frozen=True)
class RegionScores:
    """The scores of one label or region of one case."""

    counts: Counts
    presence: Presence
    values: Mapping[str, float]  # metric name -> value; NaN or infinite if undefined under the rules


def score_case(
    reference: NDArray,
    prediction: NDArray,
    spacing: Sequence[float],
    regions: Mapping[str, Sequence[int]],
    metrics: Sequence[Metric],
    rules: Rules = DEFAULT,
    compute: Loops | None = None,
) -> dict[str, RegionScores]:
    """Score a predicted label map against its reference.

    Args:
        reference, prediction: `(X, Y, Z)` integer label maps on one grid.
        spacing: edge lengths of a voxel, mm, in array order.
        regions: name -> the labels it unites; they may overlap.
        rules: scores of empty masks, and whether spacing is ignored.
        compute: the inner loops; None: numba's if it is installed.

    Returns: The scores by region name. ValueError if shapes differ or are not 3-D, the type is not integer,
    or there are too many labels.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(
            f"label maps of shapes {reference.shape} and {prediction.shape} are not one 3-D grid"
        )
    pair = _LabelPair(reference, prediction, (1.0, 1.0, 1.0) if rules.ignore_spacing else spacing, compute)
    return {name: pair.score(members, metrics, rules) for name, members in regions.items()}


class _LabelPair:
    """Two label maps, packed into bytes in the order of memory, counted once."""

    def __init__(
        self, reference: NDArray, prediction: NDArray, spacing: Sequence[float], compute: Loops | None
    ) -> None:
        self.loops = compute or loops()
        self.spacing = np.asarray(spacing, float)
        if reference.flags.f_contiguous and not reference.flags.c_contiguous:
            # Surfaces do not depend on the order of axes, and reading along memory is several times faster.
            reference, prediction, self.spacing = reference.T, prediction.T, self.spacing[::-1].copy()
        self.labels, self.reference, self.prediction = _packed(reference, prediction)
        self.joint, *self.boxes = self.loops.tally(self.reference, self.prediction, len(self.labels))

    def score(self, members: Sequence[int], metrics: Sequence[Metric], rules: Rules) -> RegionScores:
        rows = [self.labels.index(label) for label in members if label in self.labels]
        counts = counts_of(self.joint, rows, float(self.spacing.prod()) / 1000)
        names: tuple[tuple[Presence, ...], ...] = (("empty/empty", "invented"), ("missed", "present"))
        presence = names[counts.reference > 0][counts.prediction > 0]
        reader = _Reader(self, rows, counts, rules)
        values = {}
        for metric in metrics:
            kind = METRICS[metric.kind]
            # A small missed lesion may be ignored: lesion-wise metrics handle empty predictions themselves.
            ruled = presence if kind.source != "lesions" or presence == "empty/empty" else "present"
            value = rules.of_empty(ruled, kind.better)
            values[metric.name] = reader.read(metric) if value is None else value
        return RegionScores(counts, presence, values)

    def box_of(self, rows: Sequence[int], margin: int = 0) -> NDArray:
        """Bounding box `(3, 2)` of the region in both maps, with a margin as far as the image extends."""
        boxes = np.concatenate([boxes[list(rows)] for boxes in self.boxes])
        boxes = boxes[boxes[:, 0, 1] > boxes[:, 0, 0]]
        low = np.maximum(boxes[..., 0].min(axis=0) - margin, 0)
        high = np.minimum(boxes[..., 1].max(axis=0) + margin, self.reference.shape)
        return np.stack([low, high], axis=1)


class _Reader:
    """Computes metrics of one region; what several of them need is computed once."""

    def __init__(self, pair: _LabelPair, rows: Sequence[int], counts: Counts, rules: Rules) -> None:
        self._pair, self._rows, self._rules = pair, rows, rules
        self._sources: dict[str, Counts | VoxelDistances | AreaDistances | LesionScores] = {"counts": counts}
        self._member = np.zeros(256, np.uint8)
        self._member[list(rows)] = 1

    def read(self, metric: Metric) -> float:
        kind = METRICS[metric.kind]
        if kind.source not in self._sources:
            make = {"voxels": self._voxels, "areas": self._areas, "lesions": self._lesions}[kind.source]
            self._sources[kind.source] = make()
        arguments = () if metric.tolerance_mm is None else (metric.tolerance_mm,)
        return float(kind.function()(self._sources[kind.source], *arguments))

    def _voxels(self) -> VoxelDistances:
        pair, box = self._pair, self._pair.box_of(self._rows)
        ours = pair.loops.surface_voxels(pair.reference, self._member, box)
        theirs = pair.loops.surface_voxels(pair.prediction, self._member, box)
        there = pair.loops.distances(ours, theirs, pair.spacing)
        return VoxelDistances(there, pair.loops.distances(theirs, ours, pair.spacing))

    def _areas(self) -> AreaDistances:
        pair, box = self._pair, self._pair.box_of(self._rows)
        return area_distances(pair.reference, pair.prediction, pair.spacing, pair.loops, self._member, box)

    def _lesions(self) -> LesionScores:
        pair, rules = self._pair, self._rules.lesions
        box = tuple(slice(low, high) for low, high in pair.box_of(self._rows, rules.dilations + 1))
        masks = [self._member.astype(bool)[labels[box]] for labels in (pair.reference, pair.prediction)]
        return score_lesions(masks[0], masks[1], pair.spacing, rules, pair.loops)


def _packed(reference: NDArray, prediction: NDArray) -> tuple[range | list[int], NDArray, NDArray]:
    """The label of each byte, and both maps as bytes."""
    for array in (reference, prediction):
        if array.dtype.kind not in "biu":
            raise ValueError(f"label maps hold integers, not {array.dtype}")
        if array.dtype.kind == "i" and array.size and array.min() < 0:
            raise ValueError(f"labels are not negative, here {array.min()}")
    largest = max(_largest(reference), _largest(prediction))
    if largest <= MAX_LABELS:
        return range(256), _as_bytes(reference), _as_bytes(prediction)
    labels = np.union1d(np.unique(reference), np.unique(prediction))
    labels = np.union1d([0], labels)
    if len(labels) > MAX_LABELS + 1:
        raise ValueError(f"{len(labels)} different labels are too many. Choose a label map, not an image.")
    packed = [np.searchsorted(labels, array).astype(np.uint8) for array in (reference, prediction)]
    return labels.tolist(), packed[0], packed[1]


def _largest(array: NDArray) -> int:
    return MAX_LABELS if array.dtype.itemsize == 1 else int(array.max(initial=0))


def _as_bytes(array: NDArray) -> NDArray:
    if array.dtype.itemsize == 1:
        return np.ascontiguousarray(array).view(np.uint8)
    return np.ascontiguousarray(array, dtype=np.uint8)
