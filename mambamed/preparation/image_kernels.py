"""Loops over native images, compiled: crop box, filled mask, moments, histogram, scaled copy.

Signatures are given for int16 and float32, so that nothing else is ever compiled, and the machine code is
kept on disk. `in_kernel_type` brings other types to these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

_IMAGES = ("int16", "float32")
_TILE = 32  # rows worked on together, so that input and output of either memory order stay in the cache


def in_kernel_type(array: NDArray) -> NDArray:
    """The array as int16 where that holds every value, else as float32, in its own memory order."""
    if array.dtype in (np.int16, np.float32):
        return array
    if np.can_cast(array.dtype, np.int16):
        return array.astype(np.int16)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        largest = np.finfo(np.float32).max
        array = np.clip(array, -largest, largest)
    return array.astype(np.float32)


def in_memory_order(array: NDArray) -> tuple[NDArray, tuple[int, int, int]]:
    """A view with the slowest axis first and no mirrored axes, and which axis each of its axes is."""
    order = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    x, y, z = order
    turned = array.transpose(order)
    steps = tuple(slice(None, None, -1) if stride < 0 else slice(None) for stride in turned.strides)
    return turned[steps], (x, y, z)


@numba.njit([f"void({t}[:,:,:],int64[:,::1])" for t in _IMAGES], cache=True, nogil=True)
def _grow_box(image, box):
    n0, n1, n2 = image.shape
    for i in range(n0):
        for j in range(n1):
            low = -1
            for k in range(n2):
                if image[i, j, k] != 0:
                    low = k
                    break
            if low < 0:
                continue
            box[0, 0], box[1, 0] = min(box[0, 0], i), max(box[1, 0], i + 1)
            box[0, 1], box[1, 1] = min(box[0, 1], j), max(box[1, 1], j + 1)
            box[0, 2] = min(box[0, 2], low)
            for k in range(n2 - 1, box[1, 2] - 1, -1):
                if image[i, j, k] != 0:
                    box[1, 2] = k + 1
                    break


def grow_box(image: NDArray, start: NDArray[np.int64], stop: NDArray[np.int64]) -> None:
    """Widen the box `start`..`stop`, in place, to hold every voxel of the image that is not zero.

    Reads little more than what lies outside the box.

    Args:
        image: `(X, Y, Z)`, int16 or float32, of any memory layout.
        start, stop: `(3,)`; the shape and zeros for an empty box.
    """
    view, order = in_memory_order(image)
    box = np.stack([view.shape, np.zeros(3)]).astype(np.int64)
    _grow_box(view, box)
    if not box[1].any():
        return
    for position, axis in enumerate(order):
        low, high = int(box[0, position]), int(box[1, position])
        if image.strides[axis] < 0:
            low, high = image.shape[axis] - high, image.shape[axis] - low
        start[axis], stop[axis] = min(start[axis], low), max(stop[axis], high)


@numba.njit([f"void({t}[:,:,:],boolean[:,:,::1])" for t in _IMAGES], cache=True, nogil=True)
def _mark_nonzero(image, mask):
    for tile in range(0, mask.shape[0], _TILE):
        for j in range(mask.shape[1]):
            for k in range(mask.shape[2]):
                for i in range(tile, min(tile + _TILE, mask.shape[0])):
                    if image[i, j, k] != 0:
                        mask[i, j, k] = True


@numba.njit("void(boolean[:,:,::1])", cache=True, nogil=True)
def _fill_holes(mask):
    n0, n1, n2 = mask.shape
    outside = np.zeros(mask.shape, np.bool_)
    stack = np.empty(mask.size + 1, np.int64)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if i not in (0, n0 - 1) and j not in (0, n1 - 1) and k not in (0, n2 - 1):
                    continue
                if mask[i, j, k] or outside[i, j, k]:
                    continue
                outside[i, j, k] = True
                stack[0] = (i * n1 + j) * n2 + k
                depth = 1
                while depth:
                    depth -= 1
                    here = stack[depth]
                    c, rest = here % n2, here // n2
                    b, a = rest % n1, rest // n1
                    for way in range(6):
                        p, q, r = a, b, c
                        if way == 0:
                            p -= 1
                        elif way == 1:
                            p += 1
                        elif way == 2:
                            q -= 1
                        elif way == 3:
                            q += 1
                        elif way == 4:
                            r -= 1
                        else:
                            r += 1
                        if p < 0 or q < 0 or r < 0 or p >= n0 or q >= n1 or r >= n2:
                            continue
                        if not mask[p, q, r] and not outside[p, q, r]:
                            outside[p, q, r] = True
                            stack[depth] = (p * n1 + q) * n2 + r
                            depth += 1
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                mask[i, j, k] = not outside[i, j, k]


def filled_mask(channels: Sequence[NDArray]) -> NDArray[np.bool_]:
    """Where some channel is not zero, with enclosed holes filled (neighbors share a face).

    Args:
        channels: `(X, Y, Z)` each, int16 or float32, of any memory layout.
    """
    mask = np.zeros(channels[0].shape, np.bool_)
    for channel in channels:
        _mark_nonzero(channel, mask)
    _fill_holes(mask)
    return mask


@numba.njit(
    [f"void({t}[:,:,:],boolean[:,:,:],boolean,float64,float64[::1])" for t in _IMAGES],
    cache=True,
    nogil=True,
    fastmath={"reassoc", "nsz"},
)
def _moments(image, mask, masked, center, result):
    total, squares, count = 0.0, 0.0, 0
    low, high = np.inf, -np.inf
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            row_total, row_squares = 0.0, 0.0
            for k in range(image.shape[2]):
                if masked and not mask[i, j, k]:
                    continue
                value = float(image[i, j, k])
                low, high = min(low, value), max(high, value)
                value -= center
                row_total += value
                row_squares += value * value
                count += 1
            total += row_total
            squares += row_squares
    result[0], result[1], result[2], result[3], result[4] = count, total, squares, low, high


def moments(image: NDArray, mask: NDArray[np.bool_] | None = None) -> tuple[float, float, float, float, int]:
    """Mean, standard deviation, smallest, largest value and number of voxels, in float64.

    Args:
        image: `(X, Y, Z)`, int16 or float32, of any memory layout.
        mask: count only these voxels; None: all.
    """
    view, order = in_memory_order(image)
    if mask is None:
        where = np.zeros((1, 1, 1), np.bool_)
    else:
        where = mask.transpose(order)[
            tuple(slice(None, None, -1) if image.strides[axis] < 0 else slice(None) for axis in order)
        ]
    result = np.zeros(5)
    center = variance = 0.0
    # Centered on the first mean in the second pass, so that a large mean costs no digits.
    for _ in range(2 if image.dtype == np.float32 else 1):
        _moments(view, where, mask is not None, center, result)
        count, total, squares = result[:3]
        if not count:
            return 0.0, 0.0, 0.0, 0.0, 0
        shift = total / count
        variance = max(0.0, squares / count - shift * shift)
        center += shift
    return float(center), float(np.sqrt(variance)), float(result[3]), float(result[4]), int(result[0])


@numba.njit(
    [
        f"int64({t}[:,:,:],{u}[:,:,:],float64,float64,int64[::1])"
        for t in _IMAGES
        for u in ("uint8", "int16", "int32")
    ],
    cache=True,
    nogil=True,
)
def _histogram(image, label, low, scale, counts):
    outside = 0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                if label[i, j, k] > 0:
                    at = int(np.floor((image[i, j, k] - low) * scale + 0.5))
                    if at < 0 or at >= counts.size:
                        outside += 1
                        at = min(max(at, 0), counts.size - 1)
                    counts[at] += 1
    return outside


def foreground_histogram(
    image: NDArray, label: NDArray, low: float, bins_a_unit: int, length: int
) -> NDArray[np.int64]:
    """How many foreground voxels have each intensity.

    Args:
        image: `(X, Y, Z)`, int16 or float32.
        label: `(X, Y, Z)` of uint8, int16 or int32; foreground is what is greater than zero.
        low: intensity of the first bin.
        bins_a_unit: bins lie `1 / bins_a_unit` apart; the nearest one counts.
        length: number of bins; what lies beyond counts in the outermost.
    """
    view, order = in_memory_order(image)
    steps = tuple(slice(None, None, -1) if image.strides[axis] < 0 else slice(None) for axis in order)
    counts = np.zeros(length, np.int64)
    _histogram(view, label.transpose(order)[steps], low, float(bins_a_unit), counts)
    return counts


@numba.njit(
    [f"void({t}[:,:,:],float32[:,:,::1],float32,float32,float32,float32)" for t in _IMAGES],
    cache=True,
    nogil=True,
)
def _scale(image, out, low, high, center, factor):
    for tile in range(0, out.shape[0], _TILE):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for i in range(tile, min(tile + _TILE, out.shape[0])):
                    value = np.float32(image[i, j, k])
                    out[i, j, k] = (min(max(value, low), high) - center) * factor


def scale_into(
    image: NDArray, out: NDArray[np.float32], low: float, high: float, center: float, factor: float
) -> None:
    """Fill `out`, C-ordered, with `(clip(image, low, high) - center) * factor`.

    Args:
        image: `(X, Y, Z)`, int16 or float32, of any memory layout.
    """
    _scale(image, out, np.float32(low), np.float32(high), np.float32(center), np.float32(factor))
