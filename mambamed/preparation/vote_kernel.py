"""Compiled resampling of label maps: a copy where all neighboring voxels agree, a vote elsewhere.

Most of a label map agrees with its neighbors, and most of it is background. Therefore uniform rows are found
first, then uniform parts of rows with vector instructions, and only the remaining voxels are voted on
individually. Background is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.numba_cache import compiled
from mambamed.preparation.image_kernels import in_memory_order

Neighbors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""For each new voxel along an axis: the two neighboring old ones and the weight of the second."""

_LABELS = ("uint8", "int16", "int32")
_AXIS = "int64[::1],int64[::1],float64[::1]"
_TILE = 16  # of a transposed copy; small, so that most tiles contain only background
_MIXED = 1 << 40  # larger than all labels
_TIE = 1e-9  # maximum difference of equal sums of weights


@compiled(*(f"{t}({t}[::1],float64[::1])" for t in _LABELS))
def _winner(values, shares):
    """The label with the largest sum of weights; the larger one in a tie."""
    first, second, own = values[0], values[0], 0.0
    for q in range(8):
        own += shares[q] if values[q] == first else 0.0
        second = second if values[q] == first else values[q]
    if own > 0.5 + _TIE:
        return first
    other = 0.0
    for q in range(8):
        other += shares[q] if values[q] == second else 0.0
    if other > 0.5 + _TIE:
        return second
    best, best_share = first, -1.0
    for p in range(8):
        share = 0.0
        for q in range(8):
            if values[q] == values[p]:
                share += shares[q]
        if share > best_share + _TIE or (share > best_share - _TIE and values[p] > best):
            best, best_share = values[p], share
    return best


@compiled(*(f"void({t}[:,:,::1],int64[:,::1])" for t in _LABELS))
def _find_only(label, only):
    """The value of each uniform row, else `_MIXED`."""
    narrow = label.dtype.type  # otherwise numba uses 64 bits per value
    for a in range(label.shape[0]):
        for b in range(label.shape[1]):
            row = label[a, b]
            first = row[0]
            differing = narrow(0)
            for c in range(row.size):
                differing = narrow(differing | row[c] ^ first)
            only[a, b] = first if differing == 0 else _MIXED


@compiled(*(f"void({t}[:,::1],boolean[::1],int64[::1],{t}[:,:])" for t in _LABELS))
def _turn(plane, blank, source, out):
    """`out[c, i] = plane[source[i], c]` in tiles; `out` is zero before."""
    rows, columns = source.size, plane.shape[1]
    for first in range(0, rows, _TILE):
        stop = min(first + _TILE, rows)
        low, high = source[first], source[stop - 1] + 1
        if blank[low:high].all():
            continue
        for second in range(0, columns, _TILE):
            end = min(second + _TILE, columns)
            value = plane[low, second]
            differing = value ^ value
            for a in range(low, high):
                row = plane[a, second:end]
                for c in range(row.size):
                    differing |= row[c] ^ value
            if differing == 0:
                if value:
                    for c in range(second, end):
                        out[c, first:stop] = value
                continue
            for c in range(second, end):
                for i in range(first, stop):
                    out[c, i] = plane[source[i], c]


@compiled(*(f"int64({t}[::1],uint64[::1],int64)" for t in _LABELS))
def _run_end(differing, words, c):
    """The first index from c on that is not zero; `words` is the same memory as 64-bit words."""
    width = 8 // differing.itemsize
    while c < differing.size and differing[c] == 0:
        c += 1
        if c % width == 0:
            word = c // width
            while word < words.size and words[word] == 0:
                word += 1
            c = word * width
    return min(c, differing.size)


@compiled(
    *(
        f"void({t}[:,:,::1],int64[:,::1],int64,int64,float64,{_AXIS},{_AXIS},int64[::1],uint64[::1],"
        f"{t}[:,::1],boolean[::1])"
        for t in _LABELS
    )
)
def _vote_plane(
    label, only, near, far, far_weight,
    a_low, a_high, a_weight, c_low, c_high, c_weight, c_before, words, out, blank,
):  # fmt: skip
    """The plane between the old ones `near` and `far` (weight `far_weight`), and which rows are background.

    `only` is from `_find_only`.
    """
    values, shares = np.empty(8, label.dtype), np.empty(8, np.float64)
    old_columns, columns = label.shape[2], out.shape[1]
    differing = words.view(label.dtype)
    for i in range(out.shape[0]):
        a0, a1, wa = a_low[i], a_high[i], a_weight[i]
        row = out[i]
        value = only[a0, near]
        blank[i] = value == 0
        if value == only[a1, near] and value == only[a0, far] and value == only[a1, far] and value != _MIXED:
            row[:] = value
            continue
        blank[i] = False
        p, q, r, s = label[a0, near], label[a1, near], label[a0, far], label[a1, far]
        for c in range(old_columns):
            differing[c] = (p[c] ^ q[c]) | (p[c] ^ r[c]) | (p[c] ^ s[c])
        for c in range(old_columns - 1):  # now: whether voxels differ at c or c + 1
            differing[c] |= differing[c + 1] | (p[c] ^ p[c + 1])
        k = 0
        while k < columns:
            c0, c1 = c_low[k], c_high[k]
            if differing[c0] == 0:
                end = c_before[_run_end(differing, words, c0)]
                row[k:end] = p[c0]
                k = end
                continue
            wc = c_weight[k]
            for corner in range(2):
                c, w = (c1, wc) if corner else (c0, 1 - wc)
                at = 4 * corner
                values[at], values[at + 1], values[at + 2], values[at + 3] = p[c], q[c], r[c], s[c]
                shares[at] = w * (1 - wa) * (1 - far_weight)
                shares[at + 1] = w * wa * (1 - far_weight)
                shares[at + 2] = w * (1 - wa) * far_weight
                shares[at + 3] = w * wa * far_weight
            row[k] = _winner(values, shares)
            k += 1


@compiled(*(f"void({t}[:,:,::1],{t}[:,:,:],{_AXIS},{_AXIS},{_AXIS},int64[::1],boolean)" for t in _LABELS))
def _vote(
    label, out, a_low, a_high, a_weight, b_low, b_high, b_weight, c_low, c_high, c_weight, source, turned
):
    columns = label.shape[2]
    only = np.empty(label.shape[:2], np.int64)
    _find_only(label, only)
    words = np.zeros(-(-columns * label.itemsize // 8), np.uint64)
    # Old column -> number of new columns that begin before it.
    before = np.searchsorted(c_low, np.arange(words.size * 8 // label.itemsize + 1))
    answer = np.empty((a_low.size, out.shape[2]), label.dtype)
    blank = np.empty(a_low.size, np.bool_)
    for j in range(out.shape[1]):
        _vote_plane(
            label, only, b_low[j], b_high[j], b_weight[j],
            a_low, a_high, a_weight, c_low, c_high, c_weight, before, words, answer, blank,
        )  # fmt: skip
        if turned:
            _turn(answer, blank, source, out[:, j, :].T)
        else:
            for i in range(source.size):
                out[i, j] = answer[source[i]]


def vote(label: NDArray, out: NDArray, neighbors: Sequence[Neighbors]) -> None:
    """Fill `out` with the label of the largest linear weight among the eight old voxels around each new one.

    Args:
        label: `(X, Y, Z)` of uint8, int16 or int32 and any memory layout, including mirrored views.
        out: `(X', Y', Z')` zeros of the same type and any layout.
        neighbors: from `splines.linear_neighbors`, one per axis.
    """
    view, order = in_memory_order(label)
    target = out.transpose(order)
    arguments = []
    for position, axis in enumerate(order):
        low, high, weight = neighbors[axis]
        if label.strides[axis] < 0:  # mirror both sides, so that indices increase
            low, high = label.shape[axis] - 1 - high[::-1], label.shape[axis] - 1 - low[::-1]
            weight = np.ascontiguousarray(1 - weight[::-1])
            target = np.flip(target, position)
        arguments += [low, high, weight]
    # Consecutive equal planes are computed once; `source` is the computed plane of each.
    low, high, weight = arguments[:3]
    new = np.ones(len(low), np.bool_)
    new[1:] = (low[1:] != low[:-1]) | (low[1:] != high[1:])
    source = np.cumsum(new) - 1
    turned = abs(target.strides[0]) < abs(target.strides[2])
    view = np.ascontiguousarray(view)
    _vote(view, target, low[new], high[new], weight[new], *arguments[3:], source, turned)
