"""The inner loops of augmentation, compiled: they run on one thread each and hold no lock (nogil), so that
threads work side by side.

Signatures are pinned and the machine code is cached, because compiling takes seconds. Images are float32
`(C, X, Y, Z)`, label maps uint8 or int16 `(X, Y, Z)`, all C-contiguous.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, inline="always")
def _vote(label, x, y, z, fx, fy, fz, nx, ny, nz):
    """The label with the largest trilinear weight among the eight corners; outside lies background."""
    best, best_weight = 0, -1.0
    for a in range(8):
        ax, ay, az = x + (a >> 2), y + ((a >> 1) & 1), z + (a & 1)
        candidate = 0
        if 0 <= ax < nx and 0 <= ay < ny and 0 <= az < nz:
            candidate = label[ax, ay, az]
        weight = 0.0
        for b in range(8):
            bx, by, bz = x + (b >> 2), y + ((b >> 1) & 1), z + (b & 1)
            value = 0
            if 0 <= bx < nx and 0 <= by < ny and 0 <= bz < nz:
                value = label[bx, by, bz]
            if value == candidate:
                wx = fx if b >> 2 else 1.0 - fx
                wy = fy if (b >> 1) & 1 else 1.0 - fy
                wz = fz if b & 1 else 1.0 - fz
                weight += wx * wy * wz
        if weight > best_weight + 1e-6:
            best, best_weight = candidate, weight
    return best


@njit(
    [
        "void(f4[:,:,:,::1], u1[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], u1[:,:,::1])",
        "void(f4[:,:,:,::1], i2[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], i2[:,:,::1])",
    ],
    nogil=True,
    cache=True,
    fastmath=True,
)
def warp(image, label, matrix, offset, image_out, label_out):
    """Sample image (trilinear) and label (vote of the eight corners) at `matrix @ output_voxel + offset`.

    Outside of the input lie zeros. Image and label share every coordinate: they cannot part.

    Args:
        image: `(C, X, Y, Z)` float32.
        label: `(X, Y, Z)`.
        matrix: `(3, 3)` float64, output voxel -> input voxel.
        offset: `(3,)` float64.
        image_out: `(C, P, Q, R)` float32, overwritten.
        label_out: `(P, Q, R)`, overwritten.
    """
    channels, nx, ny, nz = image.shape
    px, py, pz = label_out.shape
    for i in range(px):
        for j in range(py):
            x0 = matrix[0, 0] * i + matrix[0, 1] * j + offset[0]
            y0 = matrix[1, 0] * i + matrix[1, 1] * j + offset[1]
            z0 = matrix[2, 0] * i + matrix[2, 1] * j + offset[2]
            for k in range(pz):
                xf, yf, zf = x0 + matrix[0, 2] * k, y0 + matrix[1, 2] * k, z0 + matrix[2, 2] * k
                x, y, z = math.floor(xf), math.floor(yf), math.floor(zf)
                if x < -1 or y < -1 or z < -1 or x >= nx or y >= ny or z >= nz:
                    for c in range(channels):
                        image_out[c, i, j, k] = 0.0
                    label_out[i, j, k] = 0
                    continue
                fx, fy, fz = np.float32(xf - x), np.float32(yf - y), np.float32(zf - z)
                if x >= 0 and y >= 0 and z >= 0 and x + 1 < nx and y + 1 < ny and z + 1 < nz:
                    for c in range(channels):
                        a = image[c, x, y, z] + fz * (image[c, x, y, z + 1] - image[c, x, y, z])
                        b = image[c, x, y + 1, z] + fz * (image[c, x, y + 1, z + 1] - image[c, x, y + 1, z])
                        d = image[c, x + 1, y, z] + fz * (image[c, x + 1, y, z + 1] - image[c, x + 1, y, z])
                        e = image[c, x + 1, y + 1, z] + fz * (
                            image[c, x + 1, y + 1, z + 1] - image[c, x + 1, y + 1, z]
                        )
                        a += fy * (b - a)
                        d += fy * (e - d)
                        image_out[c, i, j, k] = a + fx * (d - a)
                    first = label[x, y, z]
                    if (
                        first == label[x, y, z + 1]
                        and first == label[x, y + 1, z]
                        and first == label[x, y + 1, z + 1]
                        and first == label[x + 1, y, z]
                        and first == label[x + 1, y, z + 1]
                        and first == label[x + 1, y + 1, z]
                        and first == label[x + 1, y + 1, z + 1]
                    ):
                        label_out[i, j, k] = first
                    else:
                        label_out[i, j, k] = _vote(label, x, y, z, fx, fy, fz, nx, ny, nz)
                    continue
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
                label_out[i, j, k] = _vote(label, x, y, z, fx, fy, fz, nx, ny, nz)


@njit("void(f4[:,:,::1], i4[:,::1], f4[:,::1], f4[:,:,::1])", nogil=True, cache=True, fastmath=True)
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
