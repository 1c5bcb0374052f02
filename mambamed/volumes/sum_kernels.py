"""Compiled loops over the weighted sum of windows on the CPU: one thread, without the GIL.

The weight of a voxel is a product of three numbers, one per axis, so that no volume of weights is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled

Profiles = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""One factor per voxel along the slabs' axis and along the two others."""

_PLANES = "float32[:,:,:,::1]"
_PROFILES = "float32[::1],float32[::1],float32[::1]"
_ADD = f"void({_PLANES},int64,int64,float32[::1],UniTuple(int64,4),{_PROFILES})"
_TILE = 16  # floats of a cache line


@compiled(_ADD, error_model="numpy", fastmath={"contract"})
def _add_rows(total, first, left, logits, strides, along, across, inner):
    step, channel, line, _ = strides
    size = inner.size
    for d in range(along.size):
        for k in range(total.shape[1]):
            for a in range(across.size):
                weight = along[d] * across[a]
                start = d * step + k * channel + a * line
                new, row = logits[start : start + size], total[d, k, first + a, left : left + size]
                for b in range(size):  # on views, so that no index can be negative and the loop is vectorized
                    row[b] += weight * inner[b] * new[b]


@compiled(_ADD, error_model="numpy", fastmath={"contract"})
def _add_any(total, first, left, logits, strides, along, across, inner):
    step, channel, line, apart = strides
    size = inner.size
    for a in range(across.size):
        for tile in range(0, along.size, _TILE):
            for k in range(total.shape[1]):
                for d in range(tile, min(tile + _TILE, along.size)):
                    weight = along[d] * across[a]
                    start = d * step + k * channel + a * line
                    new = logits[start : start + (size - 1) * apart + 1 : apart]
                    row = total[d, k, first + a, left : left + size]
                    for b in range(size):
                        row[b] += weight * inner[b] * new[b]


def add_window(
    total: NDArray[np.float32],
    corner: tuple[int, int],
    logits: NDArray[np.float32],
    strides: tuple[int, int, int, int],
    weights: Profiles,
) -> None:
    """Add a window's weighted logits to the sum, in place.

    Args:
        total: `(depth, K, A, B)`, C-ordered; the window fills its depth.
        corner: where the window begins along A and B.
        logits: the window's, flat, in any order of axes.
        strides: in numbers, from a voxel of the window to the next one along depth, K, A and B.
    """
    add = _add_rows if strides[3] == 1 else _add_any
    add(total, *corner, logits, strides, *weights)


@compiled(f"float32({_PLANES},{_PROFILES},{_PLANES})", error_model="numpy", fastmath={"contract", "reassoc"})
def _take(total, along, across, inner, planes):
    check = np.float32(0)
    for d in range(total.shape[0]):
        for k in range(total.shape[1]):
            for a in range(total.shape[2]):
                factor, row, new = along[d] * across[a], total[d, k, a], planes[d, k, a]
                part = np.float32(0)
                for b in range(inner.size):
                    value = factor * inner[b] * row[b]
                    row[b] = np.float32(0)
                    new[b] = value
                    part += value
                check += part
    return check


def take_planes(total: NDArray[np.float32], scales: Profiles, planes: NDArray[np.float32]) -> float:
    """`planes = total * scale`, `total = 0`, all `(n, K, A, B)` and C-ordered; returns the sum of the planes.

    It is finite only if every number is; if numbers near 1e38 cancel, it may be infinite or NaN nevertheless.
    """
    return float(_take(total, *scales, planes))
