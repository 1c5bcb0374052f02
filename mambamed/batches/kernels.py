"""The inner loops of augmentation, compiled: they run on one thread each and hold no lock (nogil), so that
threads work side by side.

Signatures are pinned and the machine code is cached, because compiling takes seconds. Images are float32
`(C, X, Y, Z)`, label maps uint8 or int16 `(X, Y, Z)`, all C-contiguous.
"""

from __future__ import annotations

import math

import numpy as np

from mambamed.machine_code import compiled


@compiled()
def _label_at(label, x, y, z, fx, fy, fz):
    """The label with the largest trilinear weight among the eight corners; outside lies background."""
    nx, ny, nz = label.shape
    best, best_weight = 0, -1.0
    for a in range(8):
        # The nearest corner first: most often it decides.
        sx, sy, sz = (a >> 2) ^ (fx > 0.5), ((a >> 1) & 1) ^ (fy > 0.5), (a & 1) ^ (fz > 0.5)
        candidate = 0
        if 0 <= x + sx < nx and 0 <= y + sy < ny and 0 <= z + sz < nz:
            candidate = label[x + sx, y + sy, z + sz]
        weight = 0.0
        for b in range(8):
            bx, by, bz = b >> 2, (b >> 1) & 1, b & 1
            value = 0
            if 0 <= x + bx < nx and 0 <= y + by < ny and 0 <= z + bz < nz:
                value = label[x + bx, y + by, z + bz]
            if value == candidate:
                wx = fx if bx else 1.0 - fx
                wy = fy if by else 1.0 - fy
                wz = fz if bz else 1.0 - fz
                weight += wx * wy * wz
        if weight > best_weight + 1e-6:
            best, best_weight = candidate, weight
        if best_weight > 0.5:
            break
    return best


@compiled(inline="always")
def _steps_within(start, slope, low, high, first, last):
    """The steps k of `first <= k < last` with `low <= start + slope k <= high`."""
    if abs(slope) < 1e-12:
        return (first, last) if low <= start <= high else (first, first)
    a, b = (low - start) / slope, (high - start) / slope
    if a > b:
        a, b = b, a
    first = min(last, max(first, math.ceil(max(a, -1.0))))
    return first, max(first, min(last, math.floor(min(b, 1e9)) + 1))


@compiled()
def _at_the_rim(image, label, xf, yf, zf, image_out, label_out, i, j, k):
    """One output voxel of which some corners lie outside."""
    channels, nx, ny, nz = image.shape
    x, y, z = math.floor(xf), math.floor(yf), math.floor(zf)
    fx, fy, fz = np.float32(xf - x), np.float32(yf - y), np.float32(zf - z)
    for c in range(channels):
        value = np.float32(0.0)
        for corner in range(8):
            cx, cy, cz = x + (corner >> 2), y + ((corner >> 1) & 1), z + (corner & 1)
            if 0 <= cx < nx and 0 <= cy < ny and 0 <= cz < nz:
                wx = fx if corner >> 2 else np.float32(1.0) - fx
                wy = fy if (corner >> 1) & 1 else np.float32(1.0) - fy
                wz = fz if corner & 1 else np.float32(1.0) - fz
                value += wx * wy * wz * image[c, cx, cy, cz]
        image_out[c, i, j, k] = value
    label_out[i, j, k] = _label_at(label, x, y, z, fx, fy, fz)


@compiled(
    "void(f4[:,:,:,::1], u1[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], u1[:,:,::1])",
    "void(f4[:,:,:,::1], i2[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], i2[:,:,::1])",
    fastmath=True,
)
def warp(image, label, matrix, offset, image_out, label_out):
    """Sample image (trilinear) and label (vote of the eight corners) at `matrix @ output_voxel + offset`.

    Outside of the input lie zeros. Image and label share every coordinate: they cannot part. Each line of the
    output is cut into what lies wholly outside, what touches the rim, and what lies inside, so that the
    loop over the inside asks nothing.

    Args:
        image: `(C, X, Y, Z)` float32.
        label: `(X, Y, Z)`.
        matrix: `(3, 3)` float64, output voxel -> input voxel.
        offset: `(3,)` float64.
        image_out: `(C, P, Q, R)` float32, overwritten.
        label_out: `(P, Q, R)`, overwritten.
    """
    nx, ny, nz = label.shape
    px, py, pz = label_out.shape
    dx, dy, dz = matrix[0, 2], matrix[1, 2], matrix[2, 2]
    rim = 1e-9
    for i in range(px):
        for j in range(py):
            x0 = matrix[0, 0] * i + matrix[0, 1] * j + offset[0]
            y0 = matrix[1, 0] * i + matrix[1, 1] * j + offset[1]
            z0 = matrix[2, 0] * i + matrix[2, 1] * j + offset[2]
            begin, end = _steps_within(x0, dx, -1.0, nx, 0, pz)
            begin, end = _steps_within(y0, dy, -1.0, ny, begin, end)
            begin, end = _steps_within(z0, dz, -1.0, nz, begin, end)
            first, last = _steps_within(x0, dx, rim, nx - 1 - rim, begin, end)
            first, last = _steps_within(y0, dy, rim, ny - 1 - rim, first, last)
            first, last = _steps_within(z0, dz, rim, nz - 1 - rim, first, last)
            image_out[:, i, j, :begin] = 0
            image_out[:, i, j, end:] = 0
            label_out[i, j, :begin] = 0
            label_out[i, j, end:] = 0
            for k in range(begin, first):
                _at_the_rim(
                    image, label, x0 + dx * k, y0 + dy * k, z0 + dz * k, image_out, label_out, i, j, k
                )
            for k in range(last, end):
                _at_the_rim(
                    image, label, x0 + dx * k, y0 + dy * k, z0 + dz * k, image_out, label_out, i, j, k
                )
            for k in range(first, last):
                xf, yf, zf = x0 + dx * k, y0 + dy * k, z0 + dz * k
                x, y, z = int(xf), int(yf), int(zf)
                fx, fy, fz = np.float32(xf - x), np.float32(yf - y), np.float32(zf - z)
                for c in range(image.shape[0]):
                    a, a1 = image[c, x, y, z], image[c, x, y, z + 1]
                    b, b1 = image[c, x, y + 1, z], image[c, x, y + 1, z + 1]
                    d, d1 = image[c, x + 1, y, z], image[c, x + 1, y, z + 1]
                    e, e1 = image[c, x + 1, y + 1, z], image[c, x + 1, y + 1, z + 1]
                    a += fz * (a1 - a)
                    a += fy * (b + fz * (b1 - b) - a)
                    d += fz * (d1 - d)
                    d += fy * (e + fz * (e1 - e) - d)
                    image_out[c, i, j, k] = a + fx * (d - a)
                value = label[x, y, z]
                differs = (
                    (value ^ label[x, y, z + 1])
                    | (value ^ label[x, y + 1, z])
                    | (value ^ label[x, y + 1, z + 1])
                    | (value ^ label[x + 1, y, z])
                    | (value ^ label[x + 1, y, z + 1])
                    | (value ^ label[x + 1, y + 1, z])
                    | (value ^ label[x + 1, y + 1, z + 1])
                )
                label_out[i, j, k] = _label_at(label, x, y, z, fx, fy, fz) if differs else value


@compiled(
    "void(f4[:,:,:,::1], u1[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], f4[:,:,:,::1], u1[:,:,::1])",
    "void(f4[:,:,:,::1], i2[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], f4[:,:,:,::1], i2[:,:,::1])",
)
def warp_by_field(image, label, matrix, offset, displacement, image_out, label_out):
    """As `warp`, at `matrix @ output_voxel + offset + displacement[:, output_voxel]`.

    Args:
        displacement: `(3, P, Q, R)` float32, input voxels.
    """
    nx, ny, nz = label.shape
    px, py, pz = label_out.shape
    for i in range(px):
        for j in range(py):
            for k in range(pz):
                x = (
                    matrix[0, 0] * i
                    + matrix[0, 1] * j
                    + matrix[0, 2] * k
                    + offset[0]
                    + displacement[0, i, j, k]
                )
                y = (
                    matrix[1, 0] * i
                    + matrix[1, 1] * j
                    + matrix[1, 2] * k
                    + offset[1]
                    + displacement[1, i, j, k]
                )
                z = (
                    matrix[2, 0] * i
                    + matrix[2, 1] * j
                    + matrix[2, 2] * k
                    + offset[2]
                    + displacement[2, i, j, k]
                )
                if -1 < x < nx and -1 < y < ny and -1 < z < nz:
                    _at_the_rim(image, label, x, y, z, image_out, label_out, i, j, k)
                else:
                    image_out[:, i, j, k] = 0
                    label_out[i, j, k] = 0


@compiled("void(f4[:,:,::1], i4[:,::1], f4[:,::1], f4[:,:,::1])", fastmath=True)
def along_axis(array, index, weight, out):
    """A sparse linear operator along the middle axis.

    `out[o, i, r] = sum_t weight[i, t] array[o, index[i, t], r]`. Blurring and resampling are such operators.

    Args:
        array: `(O, N, R)`.
        index: `(M, T)` rows that enter each output row.
        weight: `(M, T)`.
        out: `(O, M, R)`, overwritten.
    """
    outer, _, rest = array.shape
    rows, taps = index.shape
    for o in range(outer):
        if rest == 1:
            for i in range(rows):
                value = np.float32(0.0)
                for t in range(taps):
                    value += weight[i, t] * array[o, index[i, t], 0]
                out[o, i, 0] = value
            continue
        for i in range(rows):
            row, scale = index[i, 0], weight[i, 0]
            for r in range(rest):
                out[o, i, r] = scale * array[o, row, r]
            for t in range(1, taps):
                row, scale = index[i, t], weight[i, t]
                for r in range(rest):
                    out[o, i, r] += scale * array[o, row, r]
