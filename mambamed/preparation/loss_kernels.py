"""Compiled loops that compare a native label map with the prepared one; background costs next to nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled
from mambamed.preparation.image_kernels import in_memory_order

_LABELS = ("uint8", "int16", "int32")
_INDEX = "int64[::1],int64[::1],int64[::1]"


@compiled(*(f"void({t}[:,:,:],{t}[:,:,:],{_INDEX},int64[:,::1],uint8[:,:,:])" for t in _LABELS))
def _compare(label, prepared, xs, ys, zs, counts, lost):
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            row = label[i, j]
            outside = xs[i] < 0 or ys[j] < 0
            for k in range(row.size):
                value = row[k]
                if value <= 0:
                    continue
                counts[value, 0] += 1
                if outside or zs[k] < 0:
                    lost[i, j, k] = 1
                    continue
                counts[value, 1] += 1
                if prepared[xs[i], ys[j], zs[k]] == value:
                    counts[value, 2] += 1
                else:
                    lost[i, j, k] = 1


@compiled(*(f"int64[::1]({t}[:,:,:],uint8[:,:,:],uint8[::1],boolean,int64)" for t in _LABELS))
def _components(label, marked, wanted, alone, stack_size):
    """Components of the marked voxels of each wanted label, with 26 neighbors; the marks are removed.

    `alone`: count only those that touch no other voxel of their label.
    """
    counts = np.zeros(len(wanted), np.int64)
    stack = np.empty((max(stack_size, 1), 3), np.int64)
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            for k in range(label.shape[2]):
                if marked[i, j, k] != 1 or not wanted[label[i, j, k]]:
                    continue
                value, touches, height = label[i, j, k], False, 1
                stack[0, 0], stack[0, 1], stack[0, 2] = i, j, k
                marked[i, j, k] = 2
                while height:
                    height -= 1
                    a, b, c = stack[height, 0], stack[height, 1], stack[height, 2]
                    for x in range(max(a - 1, 0), min(a + 2, label.shape[0])):
                        for y in range(max(b - 1, 0), min(b + 2, label.shape[1])):
                            for z in range(max(c - 1, 0), min(c + 2, label.shape[2])):
                                if label[x, y, z] != value:
                                    continue
                                if marked[x, y, z] == 1:
                                    marked[x, y, z] = 2
                                    stack[height, 0], stack[height, 1], stack[height, 2] = x, y, z
                                    height += 1
                                elif marked[x, y, z] == 0:
                                    touches = True
                if not (alone and touches):
                    counts[value] += 1
    return counts


def compare_labels(
    label: NDArray, prepared: NDArray, indices: tuple[NDArray, NDArray, NDArray], largest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What of a native label map has the same label in the prepared one.

    Args:
        label: `(X, Y, Z)` uint8, int16 or int32.
        prepared: `(x, y, z)` of the same type.
        indices: of each axis: native index -> nearest prepared one, -1 outside the crop box.
        largest: the largest label.

    Returns: `(largest + 1, 3)` native voxels of each label, those in the crop box, and those with the same
    label in `prepared`; `(largest + 1,)` components of each label without such a voxel (26 neighbors).
    """
    view, order = in_memory_order(label)
    lost = np.zeros(view.shape, np.uint8)
    x, y, z = (
        np.ascontiguousarray(indices[axis][::-1] if label.strides[axis] < 0 else indices[axis])
        for axis in order
    )
    counts = np.zeros((largest + 1, 3), np.int64)
    _compare(view, prepared.transpose(order), x, y, z, counts, lost)
    missing = counts[:, 0] - counts[:, 2]
    wanted = (missing > 0).astype(np.uint8)
    return counts, _components(view, lost, wanted, True, int(missing.sum()))


def count_components(label: NDArray, values: NDArray[np.bool_], voxels: int) -> NDArray[np.int64]:
    """Components of labels, with 26 neighbors.

    Args:
        label: `(X, Y, Z)` uint8, int16 or int32.
        values: `(K,)` whether a label is wanted.
        voxels: number of voxels of the wanted labels.

    >>> count_components(np.array([[[1, 0, 1], [2, 1, 0]]], np.uint8), np.array([False, True, True]), 4)
    array([0, 1, 1])
    """
    view, _ = in_memory_order(label)
    marks = np.isin(view, np.flatnonzero(values)).astype(np.uint8)
    return _components(view, marks, values.astype(np.uint8), False, voxels)
