"""The metrics' inner loops, compiled by numba: without parallel=True, which aborts after a fork.

They release the GIL. `plain` has the same functions in numpy and scipy; `kernels` describes and calls them.
"""

from __future__ import annotations

import numpy as np

from mambamed.numba_cache import compiled

_compile = compiled(boundscheck=False, error_model="numpy")


@_compile
def _widen(box, x, y, low, high):
    box[0, 0], box[0, 1] = min(box[0, 0], x), max(box[0, 1], x + 1)
    box[1, 0], box[1, 1] = min(box[1, 0], y), max(box[1, 1], y + 1)
    box[2, 0], box[2, 1] = min(box[2, 0], low), max(box[2, 1], high)


@_compile
def _tally_stretch(reference, prediction, first, end, joint, reference_boxes, prediction_boxes):
    """Count the voxels `first:end` in the order of memory, one run of equal pairs at a time."""
    rows, width = reference.shape[1], reference.shape[2]
    while first < end:  # a stretch may cross the end of a row
        row = first // width
        x, y, z = row // rows, row % rows, first - row * width
        high = min(width, z + end - first)
        first += high - z
        while z < high:
            r, p, start = reference[x, y, z], prediction[x, y, z], z
            while z < high and reference[x, y, z] == r and prediction[x, y, z] == p:
                z += 1
            joint[r, p] += z - start
            if r:
                _widen(reference_boxes[r], x, y, start, z)
            if p:
                _widen(prediction_boxes[p], x, y, start, z)


@_compile
def tally(reference, prediction, reference_words, prediction_words, joint, reference_boxes, prediction_boxes):
    background, word, n_words = 0, 0, reference_words.size
    while word < n_words:
        if (reference_words[word] | prediction_words[word]) == 0:
            background += 8
            word += 1
            continue
        first = word * 8
        while word < n_words and (reference_words[word] | prediction_words[word]) != 0:
            word += 1
        _tally_stretch(reference, prediction, first, word * 8, joint, reference_boxes, prediction_boxes)
    first, end = n_words * 8, reference.size  # the last voxels, less than a word
    _tally_stretch(reference, prediction, first, end, joint, reference_boxes, prediction_boxes)
    joint[0, 0] += background


@_compile
def _fill_plane(labels, member, box, x, plane):
    """Write the membership of plane x (box coordinates) into `plane`, which has a margin of one voxel."""
    if x < 0 or x >= box[0, 1] - box[0, 0]:
        plane[:] = 0
        return
    width = box[2, 1] - box[2, 0]
    for y in range(box[1, 1] - box[1, 0]):
        row = labels[box[0, 0] + x, box[1, 0] + y]
        out = plane[y + 1]
        for z in range(width):
            out[z + 1] = member[row[box[2, 0] + z]]


@_compile
def _grown(points):
    larger = np.empty(2 * points.size, points.dtype)
    larger[: points.size] = points
    return larger


@_compile
def surface_voxels(labels, member, box):
    nx, ny, nz = box[0, 1] - box[0, 0], box[1, 1] - box[1, 0], box[2, 1] - box[2, 0]
    planes = np.zeros((3, ny + 2, nz + 2), np.uint8)
    _fill_plane(labels, member, box, 0, planes[1])
    starts = np.zeros(nx * ny + 1, np.int64)
    depths = np.empty(4096, np.int32)
    edge = np.empty(nz, np.uint8)
    found = 0
    for x in range(nx):
        before, here, after = planes[(x + 0) % 3], planes[(x + 1) % 3], planes[(x + 2) % 3]
        _fill_plane(labels, member, box, x + 1, after)
        for y in range(ny):
            row, left, right = here[y + 1], here[y], here[y + 2]
            back, front = before[y + 1], after[y + 1]
            any_edge = 0
            for z in range(nz):
                inside = row[z] & row[z + 2] & left[z + 1] & right[z + 1] & back[z + 1] & front[z + 1]
                edge[z] = row[z + 1] & (1 - inside)
                any_edge |= edge[z]
            if any_edge:
                while found + nz > depths.size:
                    depths = _grown(depths)
                for z in range(nz):
                    depths[found] = z
                    found += edge[z]
            starts[x * ny + y + 1] = found
    return starts, depths[:found].copy()


@_compile
def surface_corners(labels, member, box):
    nx, ny, nz = box[0, 1] - box[0, 0], box[1, 1] - box[1, 0], box[2, 1] - box[2, 0]
    planes = np.zeros((2, ny + 2, nz + 2), np.uint8)
    starts = np.zeros((nx + 1) * (ny + 1) + 1, np.int64)
    depths = np.empty(4096, np.int32)
    codes = np.empty(4096, np.uint8)
    code = np.empty(nz + 1, np.uint8)
    found = 0
    for x in range(nx + 1):
        before, after = planes[x % 2], planes[(x + 1) % 2]
        _fill_plane(labels, member, box, x, after)
        for y in range(ny + 1):
            a, b, c, d = before[y], before[y + 1], after[y], after[y + 1]
            some, all_inside = 0, 255
            for z in range(nz + 1):
                # fmt: off
                code[z] = (
                    a[z] + a[z + 1] * 2 + b[z] * 4 + b[z + 1] * 8
                    + c[z] * 16 + c[z + 1] * 32 + d[z] * 64 + d[z + 1] * 128
                )
                # fmt: on
                some |= code[z]
                all_inside &= code[z]
            if some and all_inside != 255:
                while found + nz + 1 > depths.size:
                    depths, codes = _grown(depths), _grown(codes)
                for z in range(nz + 1):
                    depths[found], codes[found] = z, code[z]
                    found += code[z] != 0 and code[z] != 255
            starts[x * (ny + 1) + y + 1] = found
    return starts, depths[:found].copy(), codes[:found].copy()


@_compile
def _nearest_in_column(depths, start, stop, z):
    """Index of the point of a column whose depth is nearest to z."""
    low, high = start, stop
    while low < high:
        middle = (low + high) >> 1
        if depths[middle] < z:
            low = middle + 1
        else:
            high = middle
    if low == stop or (low > start and z - depths[low - 1] <= depths[low] - z):
        return low - 1
    return low


@_compile
def _row_extents(starts, depths, nx, ny):
    """For every row x: first and last column that holds a point, lowest and highest depth."""
    extents = np.empty((nx, 4), np.int64)
    for x in range(nx):
        first, last, low, high = ny, -1, np.int64(2**62), np.int64(-1)
        for y in range(ny):
            start, stop = starts[x * ny + y], starts[x * ny + y + 1]
            if stop > start:
                first, last = min(first, y), y
                low, high = min(low, depths[start]), max(high, depths[stop - 1])
        extents[x, 0], extents[x, 1], extents[x, 2], extents[x, 3] = first, last, low, high
    return extents


@_compile
def nearest(query_starts, query_depths, starts, depths, nx, ny, weights, out, budget):
    wx, wy, wz = weights[0], weights[1], weights[2]
    extents = _row_extents(starts, depths, nx, ny)
    visited, seeded = 0, False
    seed_x, seed_y, seed_z = 0, 0, 0
    for x in range(nx):
        for y in range(ny):
            for k in range(query_starts[x * ny + y], query_starts[x * ny + y + 1]):
                z = query_depths[k]
                best = np.inf
                if seeded:  # the nearest point of the previous query is usually close to that of this one
                    dx, dy, dz = x - seed_x, y - seed_y, z - seed_z
                    best = wx * dx * dx + wy * dy * dy + wz * dz * dz
                for step in range(nx):
                    along_x = wx * step * step
                    if along_x >= best:
                        break
                    for side in range(2):
                        row = x + step if side == 0 else x - step
                        if row < 0 or row >= nx or (side == 1 and step == 0):
                            continue
                        first, last = extents[row, 0], extents[row, 1]
                        if last < 0:
                            continue
                        gap = max(extents[row, 2] - z, z - extents[row, 3], 0)
                        base = along_x + wz * gap * gap
                        middle = min(max(y, first), last)
                        for direction in range(2):
                            column = middle if direction == 0 else middle - 1
                            while first <= column <= last:
                                along_y = wy * (column - y) * (column - y)
                                if base + along_y >= best:
                                    break
                                visited += 1
                                start, stop = starts[row * ny + column], starts[row * ny + column + 1]
                                if stop > start:
                                    found = _nearest_in_column(depths, start, stop, z)
                                    dz = depths[found] - z
                                    distance = along_x + along_y + wz * dz * dz
                                    if distance < best:
                                        best, seeded = distance, True
                                        seed_x, seed_y, seed_z = row, column, depths[found]
                                column += 1 if direction == 0 else -1
                out[k] = best
                if visited > budget:
                    return k + 1
    return query_depths.size
