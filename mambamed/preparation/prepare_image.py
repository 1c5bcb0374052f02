"""From the images of one case to its prepared array: orient, crop, normalize, resample. The same for
training and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import affine_to_ras, difference_of_grids, orientation_of, spacing_of, to_ras
from mambamed.io.images import Image
from mambamed.preparation.crop import nonzero_box, nonzero_mask
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.normalize import normalized
from mambamed.preparation.plan import Plan
from mambamed.preparation.resample import coarse_axis, resample_image, resample_label, resampled_shape


def prepare_image(images: Sequence[Image], plan: Plan) -> tuple[NDArray[np.float32], CaseGeometry]:
    """Prepare the channels of one case.

    Args:
        images: one a channel, in the plan's order, on one grid.
        plan: spacing, crop and normalization.

    Returns:
        `(C, X, Y, Z)` float32 on the prepared grid, axes closest to RAS+; and where that grid lies.

    Raises:
        CaseError: the number of channels or their grids differ.
    """
    if len(images) != len(plan.normalization):
        raise CaseError(f"{len(images)} channels, the model reads {len(plan.normalization)}; check the files")
    first = images[0]
    for number, image in enumerate(images[1:], start=1):
        fact = difference_of_grids(first.array.shape, first.affine, image.array.shape, image.affine)
        if fact:
            raise CaseError(f"channel {number} is not on the grid of channel 0: {fact}; resample it")
    orientation = orientation_of(first.affine)
    channels = [to_ras(image.array, orientation) for image in images]
    if plan.crop == "nonzero":
        start, stop = nonzero_box(channels)
    else:
        x, y, z = channels[0].shape
        start, stop = (0, 0, 0), (x, y, z)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    channels = [channel[box] for channel in channels]
    spacing = spacing_of(affine_to_ras(first.affine, first.array.shape, orientation)).tolist()
    target = spacing if plan.keep_spacing else plan.spacing_mm
    shape = resampled_shape(channels[0].shape, spacing, target)
    masked = any(each.scheme == "zscore_nonzero" for each in plan.normalization)
    mask = nonzero_mask(channels) if masked else None
    coarse = coarse_axis(spacing, target)
    array = np.empty((len(channels), *shape), np.float32)
    for number, (channel, normalization) in enumerate(zip(channels, plan.normalization, strict=True)):
        level = normalized(channel, normalization, mask)
        if level.shape == shape:
            array[number] = level
        else:
            array[number] = resample_image(level[None], shape, coarse=coarse)[0]
    x, y, z = first.array.shape
    geometry = CaseGeometry(
        shape_native=(x, y, z),
        affine_native=tuple(tuple(float(v) for v in row) for row in first.affine),
        orientation=orientation,
        crop_start=start,
        crop_stop=stop,
        shape_prepared=shape,
    )
    return array, geometry


def prepare_label(label: Image, geometry: CaseGeometry) -> NDArray:
    """Bring a case's label map to its prepared grid.

    Args:
        label: integers, possibly stored as floats or with axes in another order than the image, on the
            image's grid in the world.
        geometry: of the prepared image.

    Returns:
        `(X, Y, Z)` uint8, or int16 for labels above 255.
    """
    oriented = to_ras(label.array, orientation_of(label.affine))
    box = tuple(slice(a, b) for a, b in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    cropped = oriented[box]
    whole = np.rint(cropped) if cropped.dtype.kind == "f" else cropped
    dtype = np.uint8 if whole.size == 0 or whole.max() < 256 else np.int16
    integers = np.ascontiguousarray(whole.astype(dtype))
    if integers.shape == geometry.shape_prepared:
        return integers
    coarse = coarse_axis(geometry.spacing_cropped, geometry.spacing_prepared)
    return resample_label(integers, geometry.shape_prepared, coarse=coarse)
