"""Loops over label maps, compiled: votes for resampling, counts, foreground places.

Signatures are given, so that nothing else is ever compiled, and the machine code is kept on disk.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_LABELS = ("uint8", "int16", "int32")
_INDEX, _WEIGHT = "int64[::1]", "float64[::1]"
_TILE = 32  # rows worked on together, so that input and output of either memory order stay in the cache


@numba.njit(
    [
        f"void({t}[:,:,:],{t}[:,:,::1],{_INDEX},{_INDEX},{_INDEX},{_INDEX},{_INDEX},{_INDEX},"
        f"{_WEIGHT},{_WEIGHT},{_WEIGHT})"
        for t in _LABELS
    ],
    cache=True,
    nogil=True,
)
def _vote(label, out, x_low, y_low, z_low, x_high, y_high, z_high, x_weight, y_weight, z_weight):
    values = np.empty(8, np.int64)
    shares = np.empty(8, np.float64)
    for tile in range(0, out.shape[0], _TILE):
        for j in range(out.shape[1]):
            y0, y1, wy = y_low[j], y_high[j], y_weight[j]
            for k in range(out.shape[2]):
                z0, z1, wz = z_low[k], z_high[k], z_weight[k]
                for i in range(tile, min(tile + _TILE, out.shape[0])):
                    x0, x1, wx = x_low[i], x_high[i], x_weight[i]
                    first = label[x0, y0, z0]
                    if (
                        first == label[x0, y0, z1]
                        and first == label[x0, y1, z0]
                        and first == label[x0, y1, z1]
                        and first == label[x1, y0, z0]
                        and first == label[x1, y0, z1]
                        and first == label[x1, y1, z0]
                        and first == label[x1, y1, z1]
                    ):
                        out[i, j, k] = first
                        continue
                    for corner in range(8):
                        right, back, up = corner & 1, corner & 2, corner & 4
                        values[corner] = label[x1 if right else x0, y1 if back else y0, z1 if up else z0]
                        shares[corner] = (
                            (wx if right else 1 - wx) * (wy if back else 1 - wy) * (wz if up else 1 - wz)
                        )
                    best, best_share = int(first), -1.0
                    for p in range(8):
                        share = 0.0
                        for q in range(8):
                            if values[q] == values[p]:
                                share += shares[q]
                        # Shares that differ by rounding alone are a tie, which the larger label wins.
                        if share > best_share + 1e-9 or (share > best_share - 1e-9 and values[p] > best):
                            best, best_share = values[p], share
                    out[i, j, k] = best


def vote(
    label: NDArray,
    out: NDArray,
    x_low: NDArray[np.int64],
    y_low: NDArray[np.int64],
    z_low: NDArray[np.int64],
    x_high: NDArray[np.int64],
    y_high: NDArray[np.int64],
    z_high: NDArray[np.int64],
    x_weight: NDArray[np.float64],
    y_weight: NDArray[np.float64],
    z_weight: NDArray[np.float64],
) -> None:
    """Fill `out` with the label of the largest linear share among the eight old voxels around each new one.

    Args:
        label: `(X, Y, Z)` of uint8, int16 or int32 and any memory layout, mirrored views included.
        out: `(X', Y', Z')` of the same type, C-ordered.
        x_low ... z_weight: the neighbors of each new voxel (`splines.linear_neighbors`), an axis each.
    """
    _vote(label, out, x_low, y_low, z_low, x_high, y_high, z_high, x_weight, y_weight, z_weight)


@numba.njit([f"void({t}[:,:,:],{t}[:,:,::1])" for t in _LABELS], cache=True, nogil=True)
def _copy(label, out):
    for tile in range(0, out.shape[0], _TILE):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for i in range(tile, min(tile + _TILE, out.shape[0])):
                    out[i, j, k] = label[i, j, k]


def in_c_order(label: NDArray) -> NDArray:
    """The map itself where it is C-ordered, else a C-ordered copy, ten times faster than NumPy's."""
    if label.flags.c_contiguous:
        return label
    out = np.empty(label.shape, label.dtype)
    _copy(label, out)
    return out


@numba.njit([f"int64[::1]({t}[:,:,::1],int64)" for t in _LABELS], cache=True, nogil=True)
def _count(label, length):
    counts = np.zeros(length, np.int64)
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            row = label[i, j]
            k = 0
            while k < row.size:
                # Runs of one value are counted at once: neighbors mostly agree.
                value, start = row[k], k
                k += 1
                while k < row.size and row[k] == value:
                    k += 1
                if 0 <= value < length:
                    counts[value] += k - start
    return counts


def count_labels(label: NDArray, largest: int) -> NDArray[np.int64]:
    """Voxels of each label 0..largest of a C-ordered `(X, Y, Z)` map of uint8, int16 or int32.

    >>> count_labels(np.array([[[0, 2, 2]]], np.uint8), 2).tolist()
    [1, 0, 2]
    """
    return _count(label, largest + 1)


@numba.njit(
    [f"void({t}[:,:,::1],int64[::1],int64[::1],int64[::1],int64[:,::1])" for t in _LABELS],
    cache=True,
    nogil=True,
)
def _places(label, ranks, starts, stops, rows):
    seen = np.zeros(len(starts), np.int64)
    following = starts.copy()
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            for k in range(label.shape[2]):
                value = label[i, j, k]
                if value <= 0:
                    continue
                at = following[value]
                if at < stops[value]:
                    if ranks[at] == seen[value]:
                        rows[at, 0], rows[at, 1], rows[at, 2], rows[at, 3] = value, i, j, k
                        following[value] = at + 1
                    seen[value] += 1


def foreground_places(label: NDArray, counts: NDArray[np.int64], cap: int, seed: int) -> NDArray:
    """Some voxels of each label, drawn evenly.

    Args:
        label: `(X, Y, Z)`, C-ordered, uint8, int16 or int32.
        counts: voxels of each label (`count_labels`).
        cap: at most this many a label.
        seed: decides which.

    Returns:
        `(n, 4)` rows [label, x, y, z], int16 where all fit, else int32; sorted.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    ranks, starts, stops, n = [], [], [], 0
    for value, count in enumerate(counts):
        taken = np.zeros(0, np.int64)
        if value > 0 and count > 0:
            taken = np.arange(count)
            if count > cap:
                taken = np.sort(random.choice(int(count), cap, replace=False, shuffle=False))
        ranks.append(taken)
        starts.append(n)
        n += len(taken)
        stops.append(n)
    rows = np.zeros((n, 4), np.int64)
    _places(label, np.concatenate(ranks), np.array(starts), np.array(stops), rows)
    return rows.astype(np.int16 if max(*label.shape, len(counts)) <= np.iinfo(np.int16).max else np.int32)
