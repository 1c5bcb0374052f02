"""Read the files of one case onto one grid: that of its first channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.ndimage

from mambamed.cases import Case, SegmentNames
from mambamed.errors import CaseError
from mambamed.geometry import affine_to_ras, difference_of_grids, from_ras, orientation_of, to_ras
from mambamed.io.images import Image, read_image
from mambamed.io.segments import check_reference, is_segmentation, label_map

FixGeometry = Literal["none", "reorient", "resample"]
Note = Callable[[str], None]


def read_channels(case: Case, fix: FixGeometry, note: Note | None = None) -> list[Image]:
    """The images of a case, in the manifest's order, on the grid of the first; see `on_grid`.

    Raises:
        CaseError: a file cannot be used, or lies on another grid.
    """
    images: list[Image] = []
    for channel in case.channels:
        image = read_image(channel.path, channel.volume, files=channel.files)
        images.append(on_grid(image, images[0], channel.path, fix, note=note) if images else image)
    return images


def read_label(case: Case, grid: Image, fix: FixGeometry, note: Note | None = None) -> Image | None:
    """The label map of a case on the grid of its image, reoriented if needed; None without a label.

    Raises:
        CaseError: the file cannot be used, or lies on another grid.
    """
    if case.label is None:
        return None
    if is_segmentation(case.label):
        check_reference(case.label, case.channels[0].path, case.channels[0].files)
        names, resample = case.segment_names or SegmentNames(), fix == "resample"
        x, y, z = grid.array.shape
        array = label_map(case.label, (x, y, z), grid.affine, names, resample)
        return Image(array, grid.affine, grid.header)
    return on_grid(read_image(case.label), grid, case.label, fix, label=True, note=note)


def on_grid(
    image: Image,
    grid: Image,
    path: Path,
    fix: FixGeometry,
    *,
    label: bool = False,
    note: Note | None = None,
) -> Image:
    """The image on the grid of another one.

    Args:
        path: file of the image, for messages.
        fix: "none": accept only the same grid; "reorient": also the same voxels in another axis order;
            "resample": any grid, by linear interpolation (label map: nearest voxel) in world coordinates;
            outside the image, its minimum (label map: background) is used.
        label: whether it is a label map, which may always be reoriented.
        note: optional callback that receives a line about what was done.

    Raises:
        CaseError: the grids differ by more than `fix` allows.
    """
    shape, affine = grid.array.shape, grid.affine
    fact = difference_of_grids(shape, affine, image.array.shape, image.affine)
    if fact is None:
        return image
    own, wanted = orientation_of(image.affine), orientation_of(affine)
    turned_affine = affine_to_ras(image.affine, image.array.shape, own)
    turned = from_ras(to_ras(image.array, own), wanted)
    # Compared in RAS+ order, which needs no second inverse.
    oriented = tuple(shape[axis] for axis in wanted.axes)
    still = difference_of_grids(
        oriented, affine_to_ras(affine, shape, wanted), to_ras(turned, wanted).shape, turned_affine
    )
    if still is None and (label or fix != "none"):
        if note and not label:
            note(f"{path}: its axes were brought into the order of the first channel ({fact})")
        return Image(turned, affine, grid.header)
    if fix == "resample":
        if note:
            note(f"{path}: was resampled to the grid of the first channel ({fact})")
        return _resampled(image, grid, path, label)
    # If the stored shapes are equal, the difference of the stored grids is more specific.
    fact = fact if image.array.shape == shape else still or fact
    way = "reorient" if still is None else "resample"
    raise CaseError(
        f"{path}: not on the grid of its image: {fact}. Correct the header, or use --fix-geometry {way}."
    )


def _resampled(image: Image, grid: Image, path: Path, label: bool) -> Image:
    step = np.linalg.inv(image.affine) @ grid.affine
    array = np.rint(image.array) if label and image.array.dtype.kind == "f" else image.array
    outside = 0.0 if label else float(array.min())
    offset: Any = step[:3, 3]  # scipy's annotation allows only a single number
    new = scipy.ndimage.affine_transform(
        array if label else array.astype(np.float32),
        step[:3, :3],
        offset,
        output_shape=grid.array.shape,
        order=0 if label else 1,
        mode="constant",
        cval=outside,
    )
    if label and array.any() and not new.any():
        raise CaseError(f"{path}: its foreground lies outside the image. Check that it belongs to this case.")
    return Image(new, grid.affine, grid.header)
