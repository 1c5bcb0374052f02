"""Checks of the landmarks and the class of a case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mambamed.cases import Case
from mambamed.documents.manifest import DatasetManifest
from mambamed.geometry import world_to_voxel
from mambamed.io.images import Image

_SHOWN = 5


def faults_of_points(case: Case, manifest: DatasetManifest, image: Image) -> list[str]:
    """One line per landmark that is unknown, has no position, or lies outside of the first channel."""
    if not manifest.landmarks:
        return []
    if not case.points:
        return [f"{case.id}: no landmarks for this case. Add them, or state that they are absent."]
    faults = []
    unknown = [name for name in case.points if name not in manifest.landmarks]
    if unknown:
        faults.append(f"{case.id}: landmark {_shown(unknown)} is not one of the dataset. Correct its name.")
    for name, point in case.points.items():
        if point is None:
            continue
        if not np.isfinite(point).all():
            faults.append(f"{case.id}: landmark {name} has no position (NaN). Remove absent landmarks.")
            continue
        if _is_outside(world_to_voxel(image.affine, point), image.array.shape):
            place = ", ".join(f"{v:g}" for v in point)
            faults.append(
                f"{case.id}: landmark {name} at ({place}) mm lies outside the image; "
                "check for LPS taken as RAS, or for voxels taken as mm"
            )
    return faults


def faults_of_class(case: Case, manifest: DatasetManifest) -> list[str]:
    """A line if the case has no class, or one that the dataset does not have."""
    if not manifest.classes:
        return []
    if not case.class_name:
        return [f"{case.id}: has no class. Add it, or take the case out of the list."]
    if case.class_name not in manifest.classes:
        known = _shown(manifest.classes)
        return [f"{case.id}: class {case.class_name!r} is not one of the dataset ({known}). Correct it."]
    return []


def faults_of_classes(manifest: DatasetManifest, class_names: Sequence[str | None]) -> list[str]:
    """A line if all cases have the same class: there is nothing to learn, and AUC is undefined."""
    present = sorted({name for name in class_names if name})
    if manifest.classes and len(present) < 2:
        return [f"{manifest.name}: all cases have class {_shown(present)}. Add cases of a second class."]
    return []


def points_in_crop(case: Case, affine_to_box: np.ndarray, shape: Sequence[int]) -> list[str]:
    """A warning about landmarks that cropping would cut off.

    Args:
        affine_to_box: voxel of the crop box -> world.
        shape: of the crop box.
    """
    points = {name: point for name, point in (case.points or {}).items() if point}
    voxels = {name: world_to_voxel(affine_to_box, point) for name, point in points.items()}
    outside = [name for name, voxel in voxels.items() if _is_outside(voxel, shape)]
    if not outside:
        return []
    return [
        f"{case.id}: landmark {_shown(outside)} lies beyond what is not zero, where cropping cuts; "
        "set preprocess.crop to none"
    ]


def _is_outside(voxel: np.ndarray, shape: Sequence[int]) -> bool:
    return bool((voxel < -0.5).any() or (voxel > np.array(shape) - 0.5).any())


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
