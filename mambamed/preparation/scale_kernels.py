"""Compiled: copy a native image of any memory layout, clipped, shifted and scaled, as float32 or float16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled
from mambamed.preparation.image_kernels import IMAGES, PLANES, pieces, turned

_BITS = ("uint32", "uint16")  # float32 and float16 as integers: numba has no float16
_PAIRS = [(image, bits) for image in IMAGES for bits in _BITS]
_SCALING = "boolean,float32,float32,float32,float32"  # masked, low, high, center, factor


@compiled(*(f"void(float32[::1],{t}[::1])" for t in _BITS))
def _write_bits(values, out):
    """The bits of the values as float32, or rounded to float16, depending on the width of `out`."""
    half = np.float32(0.5)
    bits = values.view(np.uint32)
    for i in range(values.size):
        word = bits[i]
        if out.itemsize == 4:
            out[i] = word
            continue
        sign = (word >> np.uint32(16)) & np.uint32(0x8000)
        size = word & np.uint32(0x7FFFFFFF)
        # Normal halves: rebias the exponent and round to nearest even, in one integer sum.
        normal = (size + np.uint32(0xC8000FFF) + ((size >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
        # Subnormal halves are 2^-24 apart, which is the last bit of 0.5 in float32.
        small = np.uint32((abs(values[i]) + half) * np.float32(1 << 24)) - np.uint32(1 << 23)
        magnitude = normal if size >= np.uint32(0x38800000) else small
        magnitude = magnitude if size < np.uint32(0x477FF000) else np.uint32(0x7BFF)
        out[i] = np.uint16(sign | magnitude)


def _bits_of(array: NDArray) -> NDArray:
    """The same memory as integers."""
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint16)


def to_float16(values: NDArray[np.float32], out: NDArray[np.float16]) -> None:
    """Round finite float32 to float16, C-ordered arrays of one size; too large values become +-65504.

    >>> half = np.empty(3, np.float16)
    >>> to_float16(np.array([1 / 3, -1e9, 6e-8], np.float32), half); half.tolist()
    [0.333251953125, -65504.0, 5.960464477539063e-08]
    """
    _write_bits(values.reshape(-1), _bits_of(out.reshape(-1)))


@compiled(*(f"void({t}[::1],float32[::1],boolean[::1],{_SCALING})" for t in IMAGES))
def _scale_row(source, row, inside, masked, low, high, center, factor):
    for k in range(row.size):
        row[k] = (min(max(np.float32(source[k]), low), high) - center) * factor
    if masked:
        for k in range(row.size):
            row[k] = row[k] if inside[k] else np.float32(0)


@compiled(*(f"void({t}[:,:,::1],{u}[:,:,:],boolean[:,:,::1],{_SCALING})" for t, u in _PAIRS))
def _scale(image, out, mask, masked, low, high, center, factor):
    n0, n1, n2 = image.shape
    values, row = np.empty(n2, np.float32), np.empty(n2, out.dtype)
    for i in range(n0):
        for j in range(n1):
            inside = mask[i * masked, j * masked]
            _scale_row(image[i, j], values, inside, masked, low, high, center, factor)
            _write_bits(values, row)
            out[i, j] = row


@compiled(
    *(f"void({t}[:,:,::1],int64,{u}[:,:,::1],boolean[:,:,::1],{_SCALING},boolean[::1])" for t, u in _PAIRS)
)
def _scale_across(image, before, out, mask, masked, low, high, center, factor, mirrored):
    """`out[c, b, before + a] = scaled image[a, b, c]`, with the mirrored axes reversed, in tiles."""
    n0, n1, n2 = image.shape
    values, rows = np.empty(n2, np.float32), np.empty((PLANES, n2), out.dtype)
    used = np.ones(n2, np.bool_)
    for j in range(n1):
        b = n1 - 1 - j if mirrored[1] else j
        for tile in range(0, n0, PLANES):
            count = min(PLANES, n0 - tile)
            start = before + tile
            if mirrored[0]:
                start = out.shape[2] - start - count
            if masked:
                used[:] = False
            for i in range(count):
                inside = mask[(tile + i) * masked, j * masked]
                _scale_row(image[tile + i, j], values, inside, masked, low, high, center, factor)
                _write_bits(values, rows[count - 1 - i if mirrored[0] else i])
                if masked:
                    for k in range(n2):
                        used[k] |= inside[k]
            for k in range(n2):
                line = out[n2 - 1 - k if mirrored[2] else k, b, start : start + count]
                if used[k]:
                    for i in range(count):
                        line[i] = rows[i, k]
                else:
                    line[:] = 0


def scale_into(
    image: NDArray,
    out: NDArray,
    low: float,
    high: float,
    center: float,
    factor: float,
    mask: NDArray[np.bool_] | None = None,
) -> None:
    """Fill `out` with `(clip(image, low, high) - center) * factor`, and with 0 outside the mask.

    Args:
        image: `(X, Y, Z)`, int16 or float32, of any memory layout.
        out: float32, or float16 (`to_float16`), of the same shape and any memory layout.
    """
    view = turned(image, image)
    target = turned(_bits_of(out), image)
    where = np.zeros((1, 1, 1), np.bool_) if mask is None else turned(mask, image)
    numbers = [np.float32(number) for number in (low, high, center, factor)]
    mirrored = np.array([stride < 0 for stride in target.strides])
    base = target[tuple(slice(None, None, -1) if flip else slice(None) for flip in mirrored)].T
    for piece in pieces(view):
        part = np.ascontiguousarray(view[piece])
        inside = where if mask is None else np.ascontiguousarray(where[piece])
        if base.flags.c_contiguous:
            _scale_across(part, piece.start, base, inside, mask is not None, *numbers, mirrored)
        else:
            _scale(part, target[piece], inside, mask is not None, *numbers)
