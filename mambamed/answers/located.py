"""Landmarks of a case: located in logits, written as JSON; and thresholds chosen on validation cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import voxel_to_world, world_to_voxel
from mambamed.io.json_files import write_json
from mambamed.metrics.classification import choose_threshold
from mambamed.metrics.measures import measure
from mambamed.preparation.grid import CaseGeometry
from mambamed.recipe import Recipe
from mambamed.tasks.landmarks import Landmarks
from mambamed.tasks.peaks import PeakFinder
from mambamed.volumes.sliding_window import Slab


@dataclass(frozen=True)
class Located:
    """The landmarks of a case.

    Attributes:
        world: `(K, 3)` mm, RAS+; the most likely position, also of absent landmarks.
        voxels: the same in voxels of the case's own file, not rounded.
        scores: `(K,)` from 0 to 1: confidence that the landmark is present.
    """

    names: tuple[str, ...]
    world: NDArray[np.float64]
    voxels: NDArray[np.float64]
    scores: NDArray[np.float64]

    def placed(self, thresholds: Mapping[str, float]) -> tuple[str, ...]:
        """The landmarks whose score reaches the threshold."""
        return tuple(n for n, score in zip(self.names, self.scores, strict=True) if score >= thresholds[n])


def locate(slabs: Iterable[Slab], geometry: CaseGeometry, task: Landmarks) -> Located:
    """Find the landmarks in the logits of a volume, given as consecutive slabs.

    Raises:
        ValueError: no slabs.
    """
    finder: PeakFinder | None = None
    for slab in slabs:
        finder = finder or PeakFinder(task.form, slab.axis)
        finder.take(slab.planes.numpy())
    if finder is None:
        raise ValueError("no slabs: there is no volume")
    prepared, scores = finder.found()
    world = voxel_to_world(geometry.affine_prepared, prepared)
    return Located(task.names, world, world_to_voxel(np.array(geometry.affine_native), world), scores)


def learned_thresholds(
    located: Sequence[Located], references: Sequence[Mapping[str, Sequence[float] | None]]
) -> dict[str, float]:
    """For each landmark, the score that best separates cases with and without it (Youden's index).

    The threshold is 0 (always present) for landmarks that are never or always absent in the `references`, one
    per validation case: landmark -> position, None if it is absent. Cases in which a landmark is not
    annotated have no part in its threshold.
    """
    thresholds = {}
    for k, name in enumerate(located[0].names):
        known = [number for number, points in enumerate(references) if name in points]
        there = np.array([references[number][name] is not None for number in known], int)
        scores = [float(located[number].scores[k]) for number in known]
        thresholds[name] = (
            0.0 if there.all() or not there.any() else choose_threshold(there, scores, "youden")
        )
    return thresholds


def write_located(
    path: Path, located: Located, thresholds: Mapping[str, float], recipe: Recipe, image: str
) -> None:
    """Write the points of a case as JSON, atomically.

    Args:
        thresholds: landmark -> score below which it is absent (null).
        image: name of the file that `voxels` refers to.
    """
    points: dict[str, list[float] | None] = {}
    voxels: dict[str, list[float] | None] = {}
    placed = located.placed(thresholds)
    for name, world, voxel in zip(located.names, located.world, located.voxels, strict=True):
        here = name in placed
        points[name] = [round(float(v), 4) for v in world] if here else None
        voxels[name] = [round(float(v), 4) for v in voxel] if here else None
    document: dict[str, Any] = {
        "coordinate_system": "RAS",
        "unit": "mm",
        "image": image,
        "points": points,
        "voxels": voxels,
        "scores": {name: round(float(s), 6) for name, s in zip(located.names, located.scores, strict=True)},
        "thresholds": {name: thresholds[name] for name in located.names},
    }
    if recipe.measures:
        document["measures"] = _measures(recipe, points)
    write_json(path, document)


def _measures(recipe: Recipe, points: dict[str, list[float] | None]) -> dict[str, dict[str, Any]]:
    there = {name: point for name, point in points.items() if point is not None}
    found = {key: measure(there, names) for key, names in recipe.measures.items()}
    return {
        key: {"value": None if np.isnan(each.value) else round(each.value, 4), "unit": each.unit}
        for key, each in found.items()
    }
