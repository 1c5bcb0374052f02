"""Small parts removed, holes filled: on the native label map, name by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.recipe.schema import Postprocess

_TOUCHING = np.ones((3, 3, 3))  # parts that touch at a corner are one


def check_names(settings: Postprocess, manifest: DatasetManifest) -> None:
    """Refuse names that the model does not answer.

    Raises:
        RecipeError: a name is neither a label nor a region.
    """
    asked = [*settings.fill_holes, *settings.largest_component, *settings.min_mm3]
    unknown = [name for name in asked if name not in manifest.foreground]
    if unknown:
        raise RecipeError(
            f"inference.postprocess: {unknown[0]} is not among {', '.join(manifest.foreground)}; correct it"
        )


def postprocess(
    labels: NDArray, settings: Postprocess, manifest: DatasetManifest, voxel_mm3: float
) -> NDArray:
    """Fill holes, keep largest parts, remove small ones: in this order, names in the manifest's order.

    Args:
        labels: `(X, Y, Z)`, changed in place.
        settings: what is asked for.
        manifest: which labels a name stands for.
        voxel_mm3: volume of a voxel.

    Returns:
        The same array. A voxel that leaves a region becomes what the regions around still say (a TC voxel
        of BraTS becomes edema, being in WT), one that leaves a label becomes background; only background is
        filled. Parts are connected through faces, edges and corners, holes through faces.
    """
    for name in manifest.foreground:
        if name in settings.fill_holes:
            _fill_holes(labels, name, manifest)
        if name in settings.largest_component:
            _keep(labels, name, manifest, lambda sizes: np.arange(len(sizes)) == sizes.argmax())
        if name in settings.min_mm3:
            voxels = settings.min_mm3[name] / voxel_mm3 * (1 - 1e-6)  # a volume of just so much stays
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
    """What a name's voxels lie in."""
    mask = np.isin(labels, manifest.foreground[name])
    found = ndimage.find_objects(mask.view(np.uint8))
    return found[0] if found else None


def _value(name: str, manifest: DatasetManifest) -> int:
    """The label of a voxel of which no more is known than that it is of this name."""
    members = manifest.foreground[name]
    inner = {
        v
        for other, own in manifest.foreground.items()
        if set(own) < set(members) and other != name
        for v in own
    }
    own = [value for value in members if value not in inner]
    return (own or list(members))[0]


def _without(value: int, name: str, manifest: DatasetManifest) -> int:
    """The label of a voxel that has left a name: that of the smallest region that still holds it."""
    members = set(manifest.foreground[name])
    around = [other for other, own in manifest.foreground.items() if value in own and not set(own) <= members]
    if not around:
        return 0
    smallest = min(around, key=lambda other: len(manifest.foreground[other]))
    outside = [v for v in manifest.foreground[smallest] if v not in members]
    value_of = _value(smallest, manifest)
    return value_of if value_of not in members else outside[0]
