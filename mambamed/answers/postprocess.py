"""Postprocessing of a native label map: fill holes, remove small components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.recipe.schema import Postprocess

_TOUCHING = np.ones((3, 3, 3))  # 26-connected


def check_names(settings: Postprocess, manifest: DatasetManifest) -> None:
    """Raise `RecipeError` if a name is neither a label nor a region of the model."""
    asked = [*settings.fill_holes, *settings.largest_component, *settings.min_mm3]
    unknown = [name for name in asked if name not in manifest.foreground]
    if unknown:
        raise RecipeError(
            f"inference.postprocess: {unknown[0]} is not among {', '.join(manifest.foreground)}; correct it"
        )


def postprocess(
    labels: NDArray, settings: Postprocess, manifest: DatasetManifest, voxel_mm3: float
) -> NDArray:
    """Fill holes, keep the largest components, remove small ones: in this order, by name in manifest order.

    Components are 26-connected, holes 6-connected; only background is filled. A voxel removed from a region
    gets the label of the smallest region that still contains it (a TC voxel of BraTS becomes edema, which is
    in WT); one removed from a label becomes background.

    Args:
        labels: `(X, Y, Z)`, changed in place and returned.
        manifest: has the labels of each name.
    """
    for name in manifest.foreground:
        if name in settings.fill_holes:
            _fill_holes(labels, name, manifest)
        if name in settings.largest_component:
            _keep(labels, name, manifest, lambda sizes: np.arange(len(sizes)) == sizes.argmax())
        if name in settings.min_mm3:
            voxels = settings.min_mm3[name] / voxel_mm3 * (1 - 1e-6)  # keeps a component of exactly this size
            _keep(labels, name, manifest, lambda sizes, least=voxels: sizes >= least)
    return labels


def _keep(
    labels: NDArray, name: str, manifest: DatasetManifest, which: Callable[[NDArray], NDArray[np.bool_]]
) -> None:
    box = _box(labels, name, manifest)
    if box is None:
        return
    inside = labels[box]
    mask = np.isin(inside, manifest.foreground[name])
    parts = np.empty(mask.shape, np.int32)
    count = int(np.asarray(ndimage.label(mask, _TOUCHING, output=parts)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    kept = which(sizes)
    gone = ~np.concatenate([[True], kept])[parts]
    for value in manifest.foreground[name]:
        inside[gone & (inside == value)] = _without(value, name, manifest)


def _fill_holes(labels: NDArray, name: str, manifest: DatasetManifest) -> None:
    box = _box(labels, name, manifest)
    if box is None:
        return
    inside = labels[box]
    mask = np.isin(inside, manifest.foreground[name])
    inside[ndimage.binary_fill_holes(mask) & (inside == 0)] = _value(name, manifest)


def _box(labels: NDArray, name: str, manifest: DatasetManifest) -> tuple[slice, ...] | None:
    """The bounding box of a name's voxels."""
    mask = np.isin(labels, manifest.foreground[name])
    found = ndimage.find_objects(mask.view(np.uint8))
    return found[0] if found else None


def _value(name: str, manifest: DatasetManifest) -> int:
    """The label written for a name: its first one that belongs to no smaller region inside it."""
    members = manifest.foreground[name]
    inside = [own for other, own in manifest.foreground.items() if other != name and set(own) < set(members)]
    own = [value for value in members if not any(value in each for each in inside)]
    return (own or list(members))[0]


def _without(value: int, name: str, manifest: DatasetManifest) -> int:
    """The new label of a voxel removed from a name: that of the smallest region that still contains it."""
    members = set(manifest.foreground[name])
    around = [other for other, own in manifest.foreground.items() if value in own and not set(own) <= members]
    if not around:
        return 0
    smallest = min(around, key=lambda other: len(manifest.foreground[other]))
    outside = [v for v in manifest.foreground[smallest] if v not in members]
    value_of = _value(smallest, manifest)
    return value_of if value_of not in members else outside[0]
