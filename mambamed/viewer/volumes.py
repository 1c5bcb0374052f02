"""Volumes for the page: NIfTI in memory, axes closest to RAS+, in types that browsers can show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import SegmentNames
from mambamed.documents.segment_names import segment_names
from mambamed.errors import CaseError
from mambamed.geometry import affine_to_ras, orientation_of, to_ras
from mambamed.io import nifti
from mambamed.io.images import Image, read_image, smallest_integer
from mambamed.io.segments import is_segmentation, label_map, own_grid
from mambamed.viewer.content import Role, Volume

_SHOWN = {np.dtype(name) for name in ("uint8", "int16", "uint16", "int32", "float32")}


def as_nifti(image: Image) -> bytes:
    """A gzip-compressed NIfTI-1 file whose array is a permuted and mirrored copy; the affine follows.

    Values stay what they are: 64-bit numbers become float32, or int32 if they are whole and fit.
    """
    orientation = orientation_of(image.affine)
    x, y, z = image.array.shape
    affine = affine_to_ras(image.affine, (x, y, z), orientation)
    return nifti.encode(_shown(to_ras(image.array, orientation)), affine, None, compressed=True)


def mask_volume(
    name: str, role: Role, path: Path, names: SegmentNames, grid: Callable[[], Image] | None
) -> Volume:
    """A label map to show; see `read_mask`. The grid is read only for a segmentation."""

    def read() -> Image:
        return read_mask(path, grid() if grid is not None and is_segmentation(path) else None, names)

    return Volume(name, role, read, source=str(path))


def read_mask(path: Path, grid: Image | None, names: SegmentNames) -> Image:
    """A label map; a segmentation with named segments is placed on a grid.

    Args:
        grid: the image of the case; None: the segmentation's own grid.
        names: what the names of segments are in a label map.

    Raises:
        CaseError: it cannot be read, or has neither a grid of its own nor an image.
    """
    if not is_segmentation(path):
        image = read_image(path)
        return Image(whole(image.array, path), image.affine)
    if grid is not None:
        x, y, z = grid.array.shape
        shape, affine = (x, y, z), grid.affine
    elif (own := own_grid(path)) is not None:
        shape, affine = own
    else:
        raise CaseError(f"{path}: has contours and no image. Give its image with --images.")
    known = segment_names(path, names.labels, names.regions)
    return Image(label_map(path, shape, affine, known, resample=True), affine)


def whole(array: NDArray, path: Path) -> NDArray:
    """Labels as whole numbers; files may store them as floats.

    Raises:
        CaseError: values that are not labels.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    low, high = (float(rounded.min()), float(rounded.max())) if rounded.size else (0.0, 0.0)
    if low < 0 or high > 65535 or (rounded is not array and np.abs(rounded - array).max() > 1e-3):
        raise CaseError(f"{path}: values from {low:g} to {high:g} are not labels. Give it as an image.")
    return rounded.astype(smallest_integer(int(high)))


def _shown(array: NDArray) -> NDArray:
    if array.dtype in _SHOWN:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype == np.int8:
        return array.astype(np.int16)
    limits = np.iinfo(np.int32)
    fits = array.dtype.kind in "iu" and limits.min <= array.min() and array.max() <= limits.max
    return array.astype(np.int32 if fits else np.float32)
