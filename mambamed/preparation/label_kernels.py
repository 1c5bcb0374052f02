"""Compiled loops over label maps: copies, counts, foreground positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled

_LABELS = ("uint8", "int16", "int32")
_TILE = 32  # rows processed together, so that input and output of either memory order stay in the cache


@compiled(*(f"void({t}[:,:,:],{t}[:,:,::1])" for t in _LABELS))
def _copy(label, out):
    for tile in range(0, out.shape[0], _TILE):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for i in range(tile, min(tile + _TILE, out.shape[0])):
                    out[i, j, k] = label[i, j, k]


def in_c_order(label: NDArray) -> NDArray:
    """The map itself if it is C-ordered, else a C-ordered copy (ten times faster than NumPy's)."""
    if label.flags.c_contiguous:
        return label
    out = np.empty(label.shape, label.dtype)
    _copy(label, out)
    return out


@compiled(*(f"int64[::1]({t}[:,:,::1],int64)" for t in _LABELS))
def _count(label, length):
    counts = np.zeros(length, np.int64)
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            row = label[i, j]
            k = 0
            while k < row.size:
                # Count runs of one value at once: neighbors mostly agree.
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


@compiled(*(f"void({t}[:,:,::1],int64[::1],int64[::1],int64[::1],int64[:,::1])" for t in _LABELS))
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
    """Random voxels of each label.

    Args:
        label: `(X, Y, Z)`, C-ordered, uint8, int16 or int32.
        counts: voxels of each label (`count_labels`).
        cap: maximum number per label.

    Returns: `(n, 4)` sorted rows [label, x, y, z], int16 if all values fit, else int32.
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
