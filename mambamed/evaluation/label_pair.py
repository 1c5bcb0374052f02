"""Read the two label maps of a case; those with named segments are placed on the grid of the other one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mambamed.cases import SegmentNames
from mambamed.documents.segment_names import segment_names
from mambamed.errors import CaseError
from mambamed.geometry import Affine, voxel_to_world
from mambamed.io.images import Image, read_image
from mambamed.io.segments import is_segmentation, label_map, own_grid, placement

_Grid = tuple[tuple[int, int, int], Affine]


def read_pair(
    reference: Path, prediction: Path | None, names: SegmentNames, resample: bool = False
) -> tuple[Image, Image | None]:
    """The label maps of reference and prediction, as stored.

    Args:
        prediction: None if there is none.
        names: what the names of segments are in a label map.
        resample: take the nearest voxel if a segmentation is on another lattice.

    Returns: Both, on one grid if one of them is a segmentation: that of the other, or, if both are, the
        smallest one that holds both.

    Raises CaseError: a file cannot be used, or both have no grid of their own.
    """
    paths = [path for path in (reference, prediction) if path is not None]
    plain = {path: read_image(path) for path in paths if not is_segmentation(path)}
    if len(plain) == len(paths):
        return plain[reference], plain[prediction] if prediction else None
    if plain:
        (image,) = plain.values()
        x, y, z = image.array.shape
        shape, affine = (x, y, z), image.affine
    else:
        shape, affine = _common_grid(paths, resample)
    read = {
        path: plain.get(path)
        or Image(
            label_map(path, shape, affine, segment_names(path, names.labels, names.regions), resample), affine
        )
        for path in paths
    }
    return read[reference], read[prediction] if prediction else None


def _common_grid(paths: list[Path], resample: bool) -> _Grid:
    """The smallest grid on the lattice of the first segmentation that holds them all."""
    grids = [(path, grid) for path in paths if (grid := own_grid(path)) is not None]
    if len(grids) < len(paths):
        raise CaseError(
            f"{paths[0]}: has contours, whose image is not known here. Give one of the two as a label map."
        )
    (_, (shape, affine)), *others = grids
    low, high = np.zeros(3, np.int64), np.array(shape) - 1
    for _, (other_shape, other_affine) in others:
        where = placement(other_affine, other_shape, affine)
        if where is None:
            if resample:
                continue
            return shape, affine  # placing the segmentation reports the difference
        turn, start = where
        ends = np.stack([start, start + turn @ (np.array(other_shape) - 1)])
        low, high = np.minimum(low, ends.min(axis=0)), np.maximum(high, ends.max(axis=0))
    moved = affine.copy()
    moved[:3, 3] = voxel_to_world(affine, low)
    x, y, z = (int(n) for n in high - low + 1)
    return (x, y, z), moved
