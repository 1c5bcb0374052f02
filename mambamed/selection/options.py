"""What `best` tries: runs and their averages, weights, postprocessing of each structure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mambamed.answers.postprocess import postprocess
from mambamed.cases import IGNORE
from mambamed.documents.ensemble import MaskPostprocess
from mambamed.documents.manifest import DatasetManifest
from mambamed.metrics import METRICS, Metric
from mambamed.metrics.rules import Rules
from mambamed.metrics.segmentation import score_case
from mambamed.recipe.schema import Postprocess
from mambamed.selection.held_out import HeldOut, HeldOutCase
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import offsets_of

_THRESHOLDS = (0.3, 0.4, 0.6, 0.7)
_VOLUMES = (0.01, 0.05, 0.2)  # of the median volume of a structure


@dataclass(frozen=True)
class Setting:
    """A choice.

    Attributes:
        weights: run number -> weight, of the runs that are averaged.
        thresholds: region -> probability.
    """

    weights: Mapping[int, float]
    postprocess: MaskPostprocess = field(default_factory=MaskPostprocess)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def logits(self, case: HeldOutCase) -> NDArray[np.float32]:
        """The weighted mean of the runs' logits: `(K, X, Y, Z)`."""
        total = sum(self.weights.values())
        parts = (case.logits[number] * np.float32(weight / total) for number, weight in self.weights.items())
        return np.sum([*parts], axis=0)

    def labels(
        self, logits: NDArray[np.float32], task: Segmentation, manifest: DatasetManifest, voxel_mm3: float
    ) -> NDArray:
        """The mask, as `predict` makes it."""
        labels = task.decode(logits - offsets_of(self.thresholds, task)[:, None, None, None])
        return postprocess(labels, as_recipe(self.postprocess), manifest, voxel_mm3)


def as_recipe(settings: MaskPostprocess) -> Postprocess:
    """The same as a section of a recipe."""
    return Postprocess.model_validate(settings.to_json())


def ensembles(count: int, names: Sequence[str]) -> dict[str, Setting]:
    """Single runs in the given order, then all pairs, then all runs together."""
    groups: list[tuple[int, ...]] = [(number,) for number in range(count)]
    groups += itertools.combinations(range(count), 2)
    groups += [tuple(range(count))] if count > 2 else []
    return {
        " + ".join(names[number] for number in group): Setting(dict.fromkeys(group, 1.0)) for group in groups
    }


def weightings(setting: Setting, names: Sequence[str]) -> dict[str, Setting]:
    """Each run of an ensemble with twice its weight; none for a single run, or if one has it already."""
    if len(setting.weights) < 2 or len(set(setting.weights.values())) > 1:
        return {}
    return {
        f"{names[number]} twice": replace(setting, weights={**setting.weights, number: 2.0})
        for number in setting.weights
    }


def postprocessings(
    setting: Setting, task: Segmentation, volumes_mm3: Mapping[str, float]
) -> dict[str, Setting]:
    """One more step of postprocessing of one structure, or another threshold of one region.

    Args:
        volumes_mm3: structure -> median volume in the references.
    """
    now, found = setting.postprocess, {}
    for name in task.names:
        if name not in now.largest_component:
            more = now.changed(largest_component=(*now.largest_component, name))
            found[f"{name}: largest component"] = replace(setting, postprocess=more)
        if name not in now.fill_holes:
            more = now.changed(fill_holes=(*now.fill_holes, name))
            found[f"{name}: fill holes"] = replace(setting, postprocess=more)
        if name not in now.min_mm3 and name in volumes_mm3:
            for part in _VOLUMES:
                volume = float(f"{volumes_mm3[name] * part:.2g}")
                more = now.changed(min_mm3={**now.min_mm3, name: volume})
                found[f"{name}: at least {volume:g} mm3"] = replace(setting, postprocess=more)
        if task.by_regions and name not in setting.thresholds:
            for threshold in _THRESHOLDS:
                more = {**setting.thresholds, name: threshold}
                found[f"{name}: threshold {threshold:g}"] = replace(setting, thresholds=more)
    return found


def scores_of(
    settings: Mapping[str, Setting], held: HeldOut, metric: Metric, rules: Rules
) -> dict[str, NDArray[np.float64]]:
    """Setting -> `(cases, structures)` scores, higher = better: distances with a minus sign.

    An infinite distance counts as the diagonal of the image.
    """
    manifest, task = held.runs[0].manifest, held.task
    regions = {name: manifest.foreground[name] for name in task.names}
    sign = 1.0 if METRICS[metric.kind].better == "higher" else -1.0
    rows: dict[str, list[list[float]]] = {name: [] for name in settings}
    for case_id in held.fold_of:
        case = held.read(case_id)
        reference, spacing = case.reference, case.reference.spacing
        truth = np.rint(reference.array).astype(np.int32)
        unknown = truth == manifest.labels.get(IGNORE, -1)
        truth[unknown] = 0
        diagonal = float(np.linalg.norm(np.array(truth.shape) * spacing))
        voxel_mm3 = float(np.prod(spacing))
        averaged: dict[tuple[tuple[int, float], ...], NDArray[np.float32]] = {}
        for name, setting in settings.items():
            key = tuple(setting.weights.items())
            if key not in averaged:
                averaged[key] = setting.logits(case)
            labels = setting.labels(averaged[key], task, manifest, voxel_mm3)
            labels[unknown] = 0
            found = score_case(truth, labels, spacing, regions, [metric], rules)
            values = [found[structure].values[metric.name] for structure in regions]
            rows[name].append([sign * min(value, diagonal) for value in values])
    return {name: np.array(values, float) for name, values in rows.items()}
