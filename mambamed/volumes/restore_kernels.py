"""Compiled loops over slabs of logits: linear interpolation and the choice of labels in one pass.

Signatures are given, so that nothing else is ever compiled, and the machine code is kept on disk. The loops
run in one thread and release the GIL, so that the network can run meanwhile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled

Neighbors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""For each new voxel along an axis: the two old ones around it, and the weight of the second."""

_PLANES = "float32[:,:,:,::1]"
_NEIGHBORS = "int64[::1],int64[::1],float32[::1]"


@compiled(f"void({_PLANES},{_NEIGHBORS},{_PLANES})", error_model="numpy", fastmath={"contract"})
def _widen(planes, low, high, weight, out):
    for n in range(planes.shape[0]):
        for k in range(planes.shape[1]):
            for a in range(planes.shape[2]):
                row = planes[n, k, a]
                new = out[n, k, a]
                for b in range(new.size):
                    first = row[low[b]]
                    new[b] = first + weight[b] * (row[high[b]] - first)


def widen_planes(planes: NDArray[np.float32], inner: Neighbors, out: NDArray[np.float32]) -> None:
    """Interpolate along the last axis: `(n, K, A, B)` -> `out` `(n, K, A, B')`, both C-ordered."""
    if planes.shape == out.shape:
        out[...] = planes
    else:
        _widen(planes, *inner, out)


@compiled(
    f"void({_PLANES},{_NEIGHBORS},{_NEIGHBORS},int64[::1],int32[::1],boolean,int32[:,:,::1])",
    error_model="numpy",
    fastmath={"contract"},
)
def _decide(planes, low, high, weight, row_low, row_high, row_weight, order, values, by_regions, labels):
    _, outputs, rows, size = planes.shape
    plane = np.empty((outputs, rows, size), np.float32)
    best = np.empty(size, np.float32)
    for p in range(labels.shape[0]):
        for k in range(outputs):
            for a in range(rows):
                first, second, w = planes[low[p], k, a], planes[high[p], k, a], weight[p]
                blend = plane[k, a]
                for b in range(size):
                    blend[b] = first[b] + w * (second[b] - first[b])
        for r in range(labels.shape[1]):
            label, w = labels[p, r], row_weight[r]
            label[:] = 0
            best[:] = np.float32(0) if by_regions else np.float32(-np.inf)
            for k in order:
                first, second, value = plane[k, row_low[r]], plane[k, row_high[r]], values[k]
                if by_regions:
                    for b in range(size):
                        score = first[b] + w * (second[b] - first[b])
                        label[b] = value if score > best[b] else label[b]
                else:
                    for b in range(size):
                        score = first[b] + w * (second[b] - first[b])
                        higher = score > best[b]
                        label[b] = value if higher else label[b]
                        best[b] = score if higher else best[b]


def decide_planes(
    planes: NDArray[np.float32],
    along: Neighbors,
    across: Neighbors,
    order: NDArray[np.int64],
    values: NDArray[np.int32],
    by_regions: bool,
) -> NDArray[np.int32]:
    """Interpolate between planes and between rows, and choose labels.

    Args:
        planes: `(n, K, A, B)` logits, C-ordered.
        along, across: the planes around each new plane, and the rows around each new row.
        order: in which channels are evaluated.
        values: label value of each channel.
        by_regions: a later positive channel overwrites an earlier one; else the largest logit wins, the
            first of equals.

    Returns: `(len(along[0]), len(across[0]), B)` label values.
    """
    labels = np.empty((len(along[0]), len(across[0]), planes.shape[3]), np.int32)
    _decide(planes, *along, *across, order, values, by_regions, labels)
    return labels
