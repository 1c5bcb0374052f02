"""Compiled loops over native images: crop box, filled mask, moments, histogram, repeated slices.

All loops run in memory order: an image with permuted or mirrored axes is turned into a C-ordered view
(`in_memory_order`), and arrays on the same grid into the same view. The signatures are fixed to int16 and
float32, and the machine code is cached on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled

IMAGES = ("int16", "float32")
_SUMS = {"reassoc", "nsz", "contract"}  # allow vectorized sums
_TILE = 64  # rows processed together, so that writes across memory order stay in the cache
PLANES = 32  # planes of a crop processed together


def in_kernel_type(array: NDArray) -> NDArray:
    """The array as int16 if that represents every value exactly, else as float32, in its own memory order."""
    if array.dtype in (np.int16, np.float32):
        return array
    if np.can_cast(array.dtype, np.int16):
        return array.astype(np.int16)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        largest = np.finfo(np.float32).max
        array = np.clip(array, -largest, largest)
    return array.astype(np.float32)


def in_memory_order(array: NDArray) -> tuple[NDArray, tuple[int, int, int]]:
    """A view with the slowest axis first and no mirrored axes, and the original axis of each of its axes."""
    x, y, z = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    return turned(array, array), (x, y, z)


def pieces(view: NDArray) -> Iterator[slice]:
    """Slices over the first axis: all planes of a contiguous view at once, of a crop a few at a time."""
    count = max(1, len(view)) if view.flags.c_contiguous else PLANES
    return (slice(first, first + count) for first in range(0, len(view), count))


def _steps(array: NDArray, order: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1) if array.strides[axis] < 0 else slice(None) for axis in order)


def turned(other: NDArray, like: NDArray) -> NDArray:
    """A view of `other`, which is on the grid of `like`, in the memory order of `like`."""
    order = sorted(range(3), key=lambda axis: -abs(like.strides[axis]))
    return other.transpose(order)[_steps(like, order)]


@compiled(*(f"boolean({t}[::1],int64,int64,{t})" for t in ("int16", "int32")))
def _any(row, first, last, counted):
    """Whether a bit of `counted` is set in `row[first:last]`; without early exit, to be vectorized."""
    bits = counted ^ counted
    for value in row[first:last]:
        bits |= value
    return bits & counted != 0


@compiled(*(f"void({t}[:,:,::1],int64[:,::1],{t})" for t in ("int16", "int32")))
def _grow_box(image, box, counted):
    n0, n1, n2 = image.shape
    for i in range(n0):
        for j in range(n1):
            row = image[i, j]
            known = box[0, 0] <= i < box[1, 0] and box[0, 1] <= j < box[1, 1]
            if not known and _any(row, 0, n2, counted):
                box[0, 0], box[1, 0] = min(box[0, 0], i), max(box[1, 0], i + 1)
                box[0, 1], box[1, 1] = min(box[0, 1], j), max(box[1, 1], j + 1)
                known = True
            if not known:
                continue
            if _any(row, 0, box[0, 2], counted):
                k = 0
                while row[k] & counted == 0:
                    k += 1
                box[0, 2] = k
            if _any(row, box[1, 2], n2, counted):
                k = n2 - 1
                while row[k] & counted == 0:
                    k -= 1
                box[1, 2] = k + 1


def grow_box(image: NDArray, start: NDArray[np.int64], stop: NDArray[np.int64]) -> None:
    """Extend the box `start`..`stop`, in place, to all voxels of the image that are not zero.

    Args:
        image: `(X, Y, Z)`, int16 or float32, of any memory layout; little is read inside the box.
        start, stop: `(3,)`; the shape and zeros for an empty box.
    """
    view, order = in_memory_order(image)
    box = np.stack([view.shape, np.zeros(3)]).astype(np.int64)
    whole = np.ascontiguousarray(view)
    if whole.dtype == np.float32:
        _grow_box(whole.view(np.int32), box, np.int32(0x7FFFFFFF))  # ignore the sign bit: -0.0 is zero
    else:
        _grow_box(whole, box, np.int16(-1))
    if not box[1].any():
        return
    for position, axis in enumerate(order):
        low, high = int(box[0, position]), int(box[1, position])
        if image.strides[axis] < 0:
            low, high = image.shape[axis] - high, image.shape[axis] - low
        start[axis], stop[axis] = min(start[axis], low), max(stop[axis], high)


@compiled(*(f"void({t}[::1],uint8[::1])" for t in IMAGES))
def _mark_nonzero(image, mask):
    for i in range(image.size):
        mask[i] |= np.uint8(image[i] != 0)


@compiled("int64(uint8[:,:,::1])")
def _reach_from_rows(mask):
    """Mark zeros at both ends of each row as outside (2). Returns the number of other zeros."""
    left = 0
    n0, n1, n2 = mask.shape
    for i in range(n0):
        for j in range(n1):
            row = mask[i, j]
            k = 0
            while k < n2 and row[k] == 0:
                row[k] = 2
                k += 1
            end = n2 - 1
            while end > k and row[end] == 0:
                row[end] = 2
                end -= 1
            for m in range(k, end):
                left += row[m] == 0
    return left


@compiled("void(uint8[:,:,::1])")
def _spread_outside(mask):
    """Alternate forward and backward sweeps until no zero touches the outside (2) or a face of the box."""
    n0, n1, n2 = mask.shape
    changed, forward = True, True
    while changed:
        changed = False
        for i_ in range(n0):
            i = i_ if forward else n0 - 1 - i_
            for j_ in range(n1):
                j = j_ if forward else n1 - 1 - j_
                at_face = i in (0, n0 - 1) or j in (0, n1 - 1)
                for k_ in range(n2):
                    k = k_ if forward else n2 - 1 - k_
                    if mask[i, j, k] == 0 and (
                        at_face
                        or mask[i - 1, j, k] == 2
                        or mask[i + 1, j, k] == 2
                        or mask[i, j - 1, k] == 2
                        or mask[i, j + 1, k] == 2
                        or mask[i, j, k - 1] == 2  # a zero left by the rows is at neither end
                        or mask[i, j, k + 1] == 2
                    ):
                        mask[i, j, k] = 2
                        changed = True
        forward = not forward


def filled_mask(channels: Sequence[NDArray]) -> NDArray[np.bool_]:
    """Voxels that are not zero in some channel, with enclosed holes filled (6-connected).

    `channels`: `(X, Y, Z)` each, int16 or float32, of any memory layout.

    Returns: `(X, Y, Z)`, in the memory layout of the first channel.
    """
    first = channels[0]
    _, order = in_memory_order(first)
    mask = np.zeros([first.shape[axis] for axis in order], np.uint8)
    for channel in channels:
        _mark_nonzero(np.ascontiguousarray(turned(channel, first)).ravel(), mask.ravel())
    if _reach_from_rows(mask):
        _spread_outside(mask)
    inside = mask != 2
    return inside[_steps(first, order)].transpose(np.argsort(order))


@compiled(*(f"void({t}[::1],boolean[::1],float64,float64[::1])" for t in IMAGES), fastmath=_SUMS)
def _masked_moments(image, mask, center, result):
    count, total, squares = 0, 0.0, 0.0
    for i in range(image.size):
        value = np.float64(image[i]) - center if mask[i] else 0.0
        count += mask[i]
        total += value
        squares += value * value
    result[0] += count
    result[1] += total
    result[2] += squares


@compiled(*(f"void({t}[::1],float64,float64[::1])" for t in IMAGES), fastmath=_SUMS)
def _moments(image, center, result):
    total, squares = 0.0, 0.0
    for i in range(image.size):
        value = np.float64(image[i]) - center
        total += value
        squares += value * value
    result[0] += image.size
    result[1] += total
    result[2] += squares


def moments(image: NDArray, mask: NDArray[np.bool_] | None = None) -> tuple[float, float, int]:
    """Mean, standard deviation and number of voxels (of a mask), in float64.

    `image`: `(X, Y, Z)`, int16 or float32, of any memory layout.
    """
    view = turned(image, image)
    where = None if mask is None else turned(mask, image)
    result = np.zeros(3)
    center = variance = 0.0
    # The second pass is centered on the first mean, which avoids cancellation for large means.
    for _ in range(2 if image.dtype == np.float32 else 1):
        result[:] = 0
        for piece in pieces(view):
            flat = np.ascontiguousarray(view[piece]).ravel()
            if where is None:
                _moments(flat, center, result)
            else:
                _masked_moments(flat, np.ascontiguousarray(where[piece]).ravel(), center, result)
        if not result[0]:
            return 0.0, 0.0, 0
        shift = result[1] / result[0]
        variance = max(0.0, result[2] / result[0] - shift * shift)
        center += shift
    return float(center), float(np.sqrt(variance)), int(result[0])


_LABELED = [(image, label) for image in IMAGES for label in ("uint8", "int16", "int32")]


@compiled(*(f"void({t}[:,:,:],{u}[:,:,:],float64,float64,int64[::1])" for t, u in _LABELED))
def _histogram(image, label, low, scale, counts):
    last = counts.size - 1
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                if label[i, j, k] > 0:
                    at = int(np.floor((image[i, j, k] - low) * scale + 0.5))
                    counts[min(max(at, 0), last)] += 1


def foreground_histogram(
    image: NDArray, label: NDArray, low: float, bins_a_unit: int, length: int
) -> NDArray[np.int64]:
    """Number of foreground voxels per intensity.

    Args:
        image: `(X, Y, Z)`, int16 or float32.
        label: `(X, Y, Z)`, uint8, int16 or int32; foreground is greater than zero.
        low: intensity of the first bin; bins are `1 / bins_a_unit` apart.
        length: number of bins; intensities beyond them are counted in the outermost bins.
    """
    counts = np.zeros(length, np.int64)
    _histogram(turned(image, image), turned(label, image), low, float(bins_a_unit), counts)
    return counts


@compiled("void(float32[:,:,::1],int64[::1],float32[:,:,::1])")
def _repeat_slices(slices, indices, out):
    count, rows, columns = slices.shape
    turned = np.empty((columns, count), np.float32)
    for i in range(rows):
        for tile in range(0, columns, _TILE):
            for s in range(count):
                for j in range(tile, min(tile + _TILE, columns)):
                    turned[j, s] = slices[s, i, j]
        for j in range(columns):
            line, row = out[i, j], turned[j]
            for k in range(indices.size):
                line[k] = row[indices[k]]


def repeat_slices(slices: NDArray[np.float32], indices: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """`out[i, j, k] = slices[indices[k], i, j]`; all C-ordered."""
    _repeat_slices(slices, indices, out)
