"""The metrics' inner loops in numpy and scipy, used without numba; the reference for `compiled`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SLAB_VOXELS = 4_000_000


def tally(
    reference: NDArray, prediction: NDArray, joint: NDArray, reference_boxes: NDArray,
    prediction_boxes: NDArray,
) -> None:  # fmt: skip
    count, size = len(joint), reference.size
    occupied = _occupied(reference, prediction)
    reference, prediction = reference[occupied], prediction[occupied]
    joint[0, 0] += size - reference.size
    for labels, boxes in ((reference, reference_boxes), (prediction, prediction_boxes)):
        for value, found in enumerate(ndimage.find_objects(labels, max_label=count - 1), start=1):
            if found is not None:
                boxes[value] = [
                    (part.start + whole.start, part.stop + whole.start)
                    for part, whole in zip(found, occupied, strict=True)
                ]
    slab = max(1, _SLAB_VOXELS // max(1, reference[:1].size))
    for x in range(0, len(reference), slab):
        r, p = reference[x : x + slab].ravel(), prediction[x : x + slab].ravel()
        some = np.flatnonzero(r | p)
        pairs = r[some].astype(np.intp) * count + p[some]
        joint += np.bincount(pairs, minlength=count * count).reshape(count, count)
        joint[0, 0] += r.size - some.size


def _occupied(reference: NDArray, prediction: NDArray) -> tuple[slice, slice, slice]:
    """A box that contains every label, found eight voxels at a time; along the last axis after the others."""
    _, ny, nz = reference.shape
    flat, other = reference.reshape(-1), prediction.reshape(-1)
    whole = flat.size // 8 * 8
    some = np.flatnonzero(flat[:whole].view(np.uint64) | other[:whole].view(np.uint64)) * 8
    if (flat[whole:] | other[whole:]).any():
        some = np.append(some, whole)
    if not some.size:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    last = np.minimum(some + 7, flat.size - 1)  # eight voxels may cross the end of a row or a plane
    x = slice(int(some[0] // (ny * nz)), int(last[-1] // (ny * nz)) + 1)
    first_row, last_row = some // nz % ny, last // nz % ny
    goes_over = (some // (ny * nz) != last // (ny * nz)).any()
    y = slice(0, ny) if goes_over else slice(int(first_row.min()), int(last_row.max()) + 1)
    along = np.flatnonzero((reference[x, y] | prediction[x, y]).any(axis=(0, 1)))
    z = slice(int(along[0]), int(along[-1]) + 1)
    return x, y, z


def _cropped(labels: NDArray, member: NDArray, box: NDArray) -> NDArray:
    """The region's mask in the box, with a margin of one voxel of background."""
    part = labels[tuple(slice(low, high) for low, high in box)]
    mask = np.zeros([edge + 2 for edge in part.shape], bool)
    np.take(member.astype(bool), part, out=mask[1:-1, 1:-1, 1:-1])
    return mask


def _columns(mask: NDArray) -> tuple[NDArray, NDArray]:
    """True voxels as `(starts, depths)`, column by column."""
    counts = np.count_nonzero(mask, axis=2).ravel()
    starts = np.concatenate([[0], np.cumsum(counts)])
    return starts, np.flatnonzero(mask).astype(np.int64) % mask.shape[2]


def surface_voxels(labels: NDArray, member: NDArray, box: NDArray) -> tuple[NDArray, NDArray]:
    mask = _cropped(labels, member, box)
    inside = mask[1:-1, 1:-1, 1:-1] & mask[:-2, 1:-1, 1:-1]
    inside &= mask[2:, 1:-1, 1:-1]
    inside &= mask[1:-1, :-2, 1:-1]
    inside &= mask[1:-1, 2:, 1:-1]
    inside &= mask[1:-1, 1:-1, :-2]
    inside &= mask[1:-1, 1:-1, 2:]
    return _columns(mask[1:-1, 1:-1, 1:-1] & ~inside)


def surface_corners(labels: NDArray, member: NDArray, box: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    mask = _cropped(labels, member, box).view(np.uint8)
    code = np.zeros([edge - 1 for edge in mask.shape], np.uint8)
    ends = (slice(None, -1), slice(1, None))
    for number in range(8):
        x, y, z = ends[number >> 2 & 1], ends[number >> 1 & 1], ends[number & 1]
        code |= mask[x, y, z] << number
    edge = (code != 0) & (code != 255)
    return *_columns(edge), code[edge]


def positions(starts: NDArray, depths: NDArray, ny: int) -> NDArray:
    """`(n, 3)` indices of points that are stored column by column."""
    column = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return np.stack([column // ny, column % ny, depths], axis=1)


def nearest(
    query_starts: NDArray, query_depths: NDArray, starts: NDArray, depths: NDArray, ny: int, spacing: NDArray,
    out: NDArray, first: int = 0,
) -> None:  # fmt: skip
    from scipy.spatial import KDTree

    queries = positions(query_starts, query_depths, ny)[first:]
    targets = positions(starts, depths, ny)
    # Most points of two similar surfaces coincide; only the others are searched.
    depth = int(max(query_depths.max(), depths.max())) + 1
    scale = np.array([ny * depth, depth, 1])
    there = np.isin(queries @ scale, targets @ scale, assume_unique=True)
    tree = KDTree(targets * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances = np.zeros(len(queries))
    distances[~there] = tree.query(queries[~there] * spacing)[0]
    out[first:] = distances**2
