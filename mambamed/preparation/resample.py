"""Resampling of images and label maps to another grid over the same box, like nnU-Net but many times faster.

An image is multiplied by one banded matrix per axis. If one axis is more than three times as coarse as the
others, its slices are resampled in their plane and repeated along it (nnU-Net's rule).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.io.images import MAX_VOXELS
from mambamed.memory import NEGLIGIBLE_BYTES, free_memory_bytes, gib
from mambamed.preparation.splines import AxisOperator, linear_neighbors, nearest_neighbors, spline_operator

Triple = tuple[int, int, int]
PreparePlane = Callable[[NDArray, int, int], NDArray[np.float32]]
ANISOTROPY = 3.0
"""Ratio of the largest to the smallest spacing above which one axis is resampled separately (nnU-Net's)."""


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]
) -> Triple:
    """Shape of the same box at another spacing; at least one voxel per axis.

    >>> resampled_shape((512, 512, 100), (0.8, 0.8, 5.0), (1.5, 1.5, 1.5))
    (273, 273, 333)
    """
    x, y, z = (
        max(1, round(old / new * n)) for n, old, new in zip(shape, spacing_mm, new_spacing_mm, strict=True)
    )
    return x, y, z


def fitting_shape(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
    channels: int,
    memory: int | None = None,
) -> Triple:
    """`resampled_shape`, after a check of its size.

    Args:
        memory: bytes that may be used (default: those that are free).

    Raises:
        CaseError: the memory does not hold the resampled image, or it has more voxels than an image may have.
    """
    steps = zip(shape, spacing_mm, new_spacing_mm, strict=True)
    sizes = [max(1.0, old / new * n) for n, old, new in steps]
    voxels = math.prod(sizes)
    needed, free = voxels * (4 * channels + 8), memory
    if memory is None and needed > NEGLIGIBLE_BYTES:
        free = free_memory_bytes()
    too_many = voxels > MAX_VOXELS
    if not (too_many or (free is not None and needed > free)):
        return resampled_shape(shape, spacing_mm, new_spacing_mm)
    old, new = (" x ".join(f"{edge:g}" for edge in spacing) for spacing in (spacing_mm, new_spacing_mm))
    size = " x ".join(f"{size:.7g}" for size in sizes)
    limit = f"{MAX_VOXELS} voxels" if too_many or free is None else gib(free)
    raise CaseError(
        f"voxels of {old} mm resampled to {new} mm: {size} voxels, {gib(needed)} of memory; the limit is "
        f"{limit}. Correct the spacing in the header, or crop the image."
    )


def coarse_axis(spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> int | None:
    """The axis to be resampled separately, or None.

    It is the only axis with the largest spacing, if that exceeds three times the smallest: of the old
    spacing, else of the new one.

    >>> coarse_axis((0.8, 0.8, 5.0), (1.5, 1.5, 1.5)), coarse_axis((1, 1, 2), (1, 1, 1))
    (2, None)
    """
    for spacing in (spacing_mm, new_spacing_mm):
        if max(spacing) / min(spacing) > ANISOTROPY:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_volume(
    volume: NDArray, out: NDArray, *, coarse: int | None = None, prepare: PreparePlane | None = None
) -> None:
    """Resample a volume into `out` by cubic B-splines, slice by slice, clipped to the range of the input.

    Args:
        volume: real, of any memory layout.
        out: `(X', Y', Z')`, C-ordered, float32 or float16.
        coarse: axis along which slices are repeated.
        prepare: `(slice, axis, index) -> float32 slice`, applied to each slice first (normalization).

    Source: nnU-Net 2's `resample_data_or_seg_to_shape` (order 3, order_z 0), here in float32.
    """
    axis = coarse if coarse is not None else slowest_axis(volume)
    slices = np.moveaxis(volume, axis, 0)
    first, second = (n for k, n in enumerate(out.shape) if k != axis)
    along_first = spline_operator(slices.shape[1], first)
    along_second = spline_operator(slices.shape[2], second)
    passed = np.empty((len(slices), first, second), np.float32)
    between = np.empty((first, slices.shape[2]), np.float32)  # reused for all slices: allocation is slow
    low, high = np.inf, -np.inf
    for index, plane in enumerate(slices):
        values = _read_as_float32(plane) if prepare is None else prepare(plane, axis, index)
        smallest, largest = values.min(), values.max()
        rows = values if along_first.is_identity else apply_rows(along_first, values, between)
        apply_columns(along_second, rows, passed[index])
        if coarse is not None:
            np.clip(passed[index], smallest, largest, out=passed[index])
        low, high = min(low, smallest), max(high, largest)
    if coarse is not None:
        _copy_axis(passed, nearest_neighbors(len(slices), out.shape[axis]), axis, out)
    else:
        _spline_axis(passed, spline_operator(len(slices), out.shape[axis]), axis, out, (low, high))


def slowest_axis(volume: NDArray) -> int:
    """The axis with the largest stride."""
    steps = zip(volume.strides, volume.shape, strict=True)
    return int(np.argmax([abs(stride) if size > 1 else -1 for stride, size in steps]))


def apply_rows(
    operator: AxisOperator, plane: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """`(n, k)` -> `(m, k)`: the operator along the first axis."""
    if operator.is_identity:
        if out is None:
            return plane
        out[...] = plane
        return out
    if out is None:
        out = np.empty((operator.new_length, plane.shape[1]), np.float32)
    for row, row_end, column, column_end, weights in operator.blocks:
        np.matmul(weights, plane[column:column_end], out=out[row:row_end])
    return out


def apply_columns(
    operator: AxisOperator, plane: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`(k, n)` -> `(k, m)`: the operator along the second axis."""
    if operator.is_identity:
        out[...] = plane
        return out
    for row, row_end, column, column_end, weights in operator.blocks:
        np.matmul(plane[:, column:column_end], weights.T, out=out[:, row:row_end])
    return out


def plane_as_float32(plane: NDArray) -> NDArray[np.float32]:
    """A float32 copy in the memory order of the plane, without mirrored axes."""
    if abs(plane.strides[0]) < abs(plane.strides[1]):
        return np.array(plane.T, np.float32, order="C").T
    return np.array(plane, np.float32, order="C")


def _read_as_float32(plane: NDArray) -> NDArray[np.float32]:
    """The plane itself if it is contiguous float32, else `plane_as_float32`."""
    ready = plane.dtype == np.float32 and (plane.flags.c_contiguous or plane.flags.f_contiguous)
    return plane if ready else plane_as_float32(plane)


def _spline_axis(
    passed: NDArray[np.float32], operator: AxisOperator, axis: int, out: NDArray, bounds: tuple[float, float]
) -> None:
    """Resample `(S, first, second)` along its first axis into `out`, where that is axis `axis`."""
    if axis == 0:
        flat = passed.reshape(len(passed), -1)
        whole = apply_rows(operator, flat).reshape(out.shape)
        np.clip(whole, *bounds, out=whole)
        out[...] = whole
        return
    buffer = np.empty(out.shape[1:], np.float32)
    for x in range(out.shape[0]):
        part = passed[:, x, :]
        if axis == 1:
            apply_rows(operator, part, buffer)
        else:
            apply_columns(operator, part.T, buffer)
        np.clip(buffer, *bounds, out=buffer)
        out[x] = buffer


def _copy_axis(passed: NDArray[np.float32], indices: NDArray, axis: int, out: NDArray) -> None:
    """Copy the slices at `indices` of `(S, first, second)` into `out`, along axis `axis`."""
    if axis == 0:
        out[...] = passed[indices]
    elif axis == 2 and out.dtype == np.float32 and out.flags.c_contiguous:
        from mambamed.preparation.image_kernels import repeat_slices

        repeat_slices(passed, indices, out)
    else:
        for x in range(out.shape[0]):
            part = passed[:, x, :]
            out[x] = part[indices] if axis == 1 else part.T[:, indices]


def resample_label(label: NDArray, shape: Sequence[int], *, coarse: int | None = None) -> NDArray:
    """Resample a label map by linear votes: the label with the largest weight among the eight nearest voxels.

    Args:
        label: `(X, Y, Z)` integers.
        shape: the new `(X, Y, Z)`.
        coarse: axis along which the nearest slice is taken; voting is then within the slice.

    Returns: `(X, Y, Z)` of the label's type, C-ordered.

    Source: nnU-Net 2's `resize_segmentation` (order 1, order_z 0): a label wins with a weight of at least
    1/2, the larger label in a tie. If no label has 1/2, nnU-Net writes background; here the label with the
    largest weight wins.
    """
    if label.ndim != 3 or 0 in label.shape or min(shape) < 1:
        raise ValueError(f"a label map (X, Y, Z) with voxels is needed, got {label.shape} -> {tuple(shape)}")
    if tuple(shape) == label.shape:
        return np.ascontiguousarray(label)
    from mambamed.preparation.vote_kernel import vote

    neighbors = []
    for axis, (n, m) in enumerate(zip(label.shape, shape, strict=True)):
        nearest = nearest_neighbors(n, m)
        neighbors.append((nearest, nearest, np.zeros(m)) if axis == coarse else linear_neighbors(n, m))
    narrow = label if label.dtype in (np.uint8, np.int16) else label.astype(np.int32)
    out = np.zeros(tuple(shape), narrow.dtype)
    vote(narrow, out, neighbors)
    return out.astype(label.dtype, copy=False)
