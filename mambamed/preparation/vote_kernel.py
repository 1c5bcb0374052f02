"""Resampling of label maps, compiled: a copy where all voxels around agree, a vote elsewhere.

Nearly all of a label map agrees with its neighbors. The loops therefore find out, for whole rows and with
vector instructions, where two planes and then two rows agree, and look at single voxels only between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.machine_code import compiled
from mambamed.preparation.image_kernels import in_memory_order

Neighbors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Of each new voxel along an axis: the two old ones around it, and the weight of the second."""

_LABELS = ("uint8", "int16", "int32")
_AXIS = "int64[::1],int64[::1],float64[::1]"
_TILE = 64  # of a transposed copy: both sides stay in the first-level cache
_TIE = 1e-9  # shares that differ by rounding alone


@compiled(*(f"{t}({t}[::1],float64[::1])" for t in _LABELS))
def _winner(values, shares):
    """The label with the largest sum of shares; of two with the same, the larger one."""
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


@compiled(*(f"void({t}[:,:,::1],int64,{t}[:,::1],boolean[::1])" for t in _LABELS))
def _load_plane(label, b, copy, even):
    """A compact copy of `label[:, b]`, and which of its rows hold one value only."""
    for a in range(label.shape[0]):
        source, row = label[a, b], copy[a]
        first = source[0]
        differing = first ^ first
        for c in range(row.size):
            value = source[c]
            row[c] = value
            differing |= value ^ first
        even[a] = differing == 0


@compiled(*(f"void({t}[:,::1],int64[::1],{t}[:,:])" for t in _LABELS))
def _turn(plane, source, out):
    """`out[c, i] = plane[source[i], c]`, a tile after the other; one of one value is filled."""
    rows, columns = source.size, plane.shape[1]
    for first in range(0, rows, _TILE):
        stop = min(first + _TILE, rows)
        for second in range(0, columns, _TILE):
            end = min(second + _TILE, columns)
            value = plane[source[first], second]
            differing = value ^ value
            for a in range(source[first], source[stop - 1] + 1):
                row = plane[a, second:end]
                for c in range(row.size):
                    differing |= row[c] ^ value
            if differing == 0:
                for c in range(second, end):
                    out[c, first:stop] = value
                continue
            for c in range(second, end):
                for i in range(first, stop):
                    out[c, i] = plane[source[i], c]


@compiled(*(f"int64({t}[::1],uint64[::1],int64)" for t in _LABELS))
def _run_end(differing, words, c):
    """The first place behind c that is not zero; `words` is the same memory, eight bytes at once."""
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
        f"void({t}[:,::1],{t}[:,::1],boolean[::1],boolean[::1],float64,{_AXIS},{_AXIS},int64[::1],"
        f"uint64[::1],{t}[:,::1])"
        for t in _LABELS
    )
)
def _vote_plane(
    near, far, near_even, far_even, far_weight,
    a_low, a_high, a_weight, c_low, c_high, c_weight, c_before, words, out,
):  # fmt: skip
    """The plane between two old ones; `far_weight` is the second's."""
    values, shares = np.empty(8, near.dtype), np.empty(8, np.float64)
    old_columns, columns = near.shape[1], out.shape[1]
    differing = words.view(near.dtype)
    for i in range(out.shape[0]):
        a0, a1, wa = a_low[i], a_high[i], a_weight[i]
        row = out[i]
        p, q, r, s = near[a0], near[a1], far[a0], far[a1]
        even = near_even[a0] and near_even[a1] and far_even[a0] and far_even[a1]
        if even and p[0] == q[0] and p[0] == r[0] and p[0] == s[0]:
            row[:] = p[0]
            continue
        for c in range(old_columns):
            differing[c] = (p[c] ^ q[c]) | (p[c] ^ r[c]) | (p[c] ^ s[c])
        for c in range(old_columns - 1):  # now: whether anything differs among c and c + 1
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
    rows, _, columns = label.shape
    planes = np.empty((2, rows, columns), label.dtype)
    even = np.empty((2, rows), np.bool_)
    held = np.full(2, -1)
    words = np.zeros(-(-columns * label.itemsize // 8), np.uint64)
    # Old column -> how many new ones begin before it.
    before = np.searchsorted(c_low, np.arange(words.size * 8 // label.itemsize + 1))
    answer = np.empty((a_low.size, out.shape[2]), label.dtype)
    for j in range(out.shape[1]):
        b0, b1 = b_low[j], b_high[j]
        near = 1 if held[1] == b0 else 0
        if held[near] != b0:
            _load_plane(label, b0, planes[near], even[near])
            held[near] = b0
        far = near
        if b1 != b0:
            far = 1 - near
            if held[far] != b1:
                _load_plane(label, b1, planes[far], even[far])
                held[far] = b1
        _vote_plane(
            planes[near], planes[far], even[near], even[far], b_weight[j],
            a_low, a_high, a_weight, c_low, c_high, c_weight, before, words, answer,
        )  # fmt: skip
        if turned:
            _turn(answer, source, out[:, j, :].T)
        else:
            for i in range(source.size):
                out[i, j] = answer[source[i]]


def vote(label: NDArray, out: NDArray, neighbors: Sequence[Neighbors]) -> None:
    """Fill `out` with the label of the largest linear share among the eight old voxels around each new one.

    Args:
        label: `(X, Y, Z)` of uint8, int16 or int32 and any memory layout, mirrored views included.
        out: `(X', Y', Z')` of the same type, of any layout.
        neighbors: the two old voxels around each new one (`splines.linear_neighbors`), an axis each.
    """
    view, order = in_memory_order(label)
    target = out.transpose(order)
    arguments = []
    for position, axis in enumerate(order):
        low, high, weight = neighbors[axis]
        if label.strides[axis] < 0:  # both sides are mirrored, so that indices rise
            low, high = label.shape[axis] - 1 - high[::-1], label.shape[axis] - 1 - low[::-1]
            weight = np.ascontiguousarray(1 - weight[::-1])
            target = np.flip(target, position)
        arguments += [low, high, weight]
    # Of equal planes in a row only the first is worked out; `source` says where the others are taken from.
    low, high, weight = arguments[:3]
    new = np.ones(len(low), np.bool_)
    new[1:] = (low[1:] != low[:-1]) | (low[1:] != high[1:])
    source = np.cumsum(new) - 1
    turned = abs(target.strides[0]) < abs(target.strides[2])
    view = np.ascontiguousarray(view)
    _vote(view, target, low[new], high[new], weight[new], *arguments[3:], source, turned)
