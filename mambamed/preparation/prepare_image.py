"""Orient, crop, normalize and resample the images of one case; the same for training and prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mambamed.documents.plan import Plan, ZScoreNonzero
from mambamed.errors import CaseError
from mambamed.geometry import (
    AS_STORED,
    difference_of_grids,
    orientation_of,
    spacing_of,
    to_ras,
)
from mambamed.io.images import Image
from mambamed.preparation.crop import nonzero_box, nonzero_mask
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.image_kernels import in_kernel_type
from mambamed.preparation.label_kernels import in_c_order
from mambamed.preparation.normalize import Scaling
from mambamed.preparation.resample import coarse_axis, fitting_shape, resample_label, resample_volume
from mambamed.preparation.scale_kernels import to_float16


def prepare_image(
    images: Sequence[Image], plan: Plan, *, dtype: DTypeLike = np.float32, missing: Collection[int] = ()
) -> tuple[NDArray, CaseGeometry]:
    """Prepare the channels of one case.

    Args:
        images: one per channel, in the plan's order, on one grid.
        dtype: float32, or float16 as in the store; computed in float32.
        missing: positions of channels that are not among the images; they are 0 everywhere, as normalized
            channels are that training drops (`augment.drop_channel`).

    Returns: `(C, X, Y, Z)` on the prepared grid, whose axes are those of the plan; and its geometry.

    Raises CaseError: the number of channels or their grids differ.
    """
    if len(images) + len(missing) != len(plan.normalization):
        raise CaseError(
            f"{len(images)} channels, but the model expects {len(plan.normalization)}. Check the files."
        )
    first = images[0]
    for number, image in enumerate(images[1:], start=1):
        fact = difference_of_grids(first.array.shape, first.affine, image.array.shape, image.affine)
        if fact:
            raise CaseError(f"channel {number} is not on the grid of channel 0: {fact}. Resample it.")
    orientation = AS_STORED if plan.axes == "stored" else orientation_of(first.affine)
    channels = [in_kernel_type(to_ras(image.array, orientation)) for image in images]
    x, y, z = channels[0].shape
    start, stop = nonzero_box(channels) if plan.crop == "nonzero" else ((0, 0, 0), (x, y, z))
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    channels = [channel[box] for channel in channels]
    spacing = _spacing(first, plan.like_nnunet)[list(orientation.axes)].tolist()
    target = spacing if plan.keep_spacing else plan.spacing_mm
    shape = fitting_shape(channels[0].shape, spacing, target, len(plan.normalization))
    masked = any(isinstance(each, ZScoreNonzero) for each in plan.normalization)
    mask = nonzero_mask(channels) if masked else None
    coarse = coarse_axis(spacing, target)
    array = np.empty((len(plan.normalization), *shape), dtype)
    there = [k for k in range(len(array)) if k not in missing]
    for k in missing:
        array[k] = 0
    for channel, k in zip(channels, there, strict=True):
        normalization, out = plan.normalization[k], array[k]
        scaling = Scaling.of(channel, normalization, mask)
        if channel.shape == shape:
            scaling.fill(channel, out)
            continue
        whole = out if out.dtype == np.float32 else np.empty(shape, np.float32)
        resample_volume(channel, whole, coarse=coarse, prepare=scaling.plane)
        if out.dtype != np.float32:
            to_float16(whole, out)
    x, y, z = first.array.shape
    geometry = CaseGeometry(
        shape_native=(x, y, z),
        affine_native=tuple(tuple(float(v) for v in row) for row in first.affine),
        orientation=orientation,
        crop_start=start,
        crop_stop=stop,
        shape_prepared=shape,
        nearest_axis=coarse_axis(target, spacing) if plan.like_nnunet else None,
    )
    return array, geometry


def _spacing(image: Image, of_header: bool) -> NDArray[np.float64]:
    """Voxel spacing in array order: of the affine, or of a NIfTI header, if both agree.

    They differ by rounding, which decides where a shape lies halfway between two numbers.
    """
    spacing = spacing_of(image.affine)
    if of_header and image.header is not None:
        stated = np.abs(np.asarray(image.header["pixdim"][1:4], np.float64))
        if np.allclose(stated, spacing, rtol=1e-4, atol=0):
            return stated
    return spacing


def prepare_label(label: Image, geometry: CaseGeometry) -> NDArray:
    """The label map of a case on the prepared grid: `(X, Y, Z)` uint8, or int16 for labels above 255.

    `label`: integers, possibly stored as floats or with another axis order, on the grid of the image.
    """
    oriented = to_ras(label.array, orientation_of(label.affine))
    box = tuple(slice(a, b) for a, b in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    cropped = label_integers(oriented[box])
    if cropped.shape == geometry.shape_prepared:
        return in_c_order(cropped)
    coarse = coarse_axis(geometry.spacing_cropped, geometry.spacing_prepared)
    return resample_label(cropped, geometry.shape_prepared, coarse=coarse)


def label_integers(label: NDArray) -> NDArray:
    """Label values as uint8, or int16 above 255, rounded; in the memory order of the map."""
    if label.dtype == np.uint8:
        return label
    whole = np.rint(label) if label.dtype.kind == "f" else label
    return whole.astype(np.uint8 if whole.size == 0 or whole.max() < 256 else np.int16)
