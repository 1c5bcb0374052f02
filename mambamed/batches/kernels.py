"""The compiled inner loops of augmentation: each runs on one thread without the GIL, so that threads work in
parallel.

Signatures are given and the machine code is cached, because compiling takes seconds. Images are float32
`(C, X, Y, Z)`, label maps uint8 or int16 `(X, Y, Z)`, all C-contiguous.
"""

from __future__ import annotations

import math

import numpy as np

from mambamed.numba_cache import compiled

_LINES = 16  # of an output plane that are processed together
_TURNED = 64  # rows that are transposed together


@compiled()
def _label_at(label, x, y, z, fx, fy, fz):
    """The label with the largest trilinear weight among the eight corners; outside is background."""
    nx, ny, nz = label.shape
    best, best_weight = 0, -1.0
    for a in range(8):
        # The nearest corner first, as it usually has the largest weight.
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
    """The steps k of `first <= k < last` with `low <= start + slope k <= high`; none where low > high."""
    if low > high:  # nothing lies inside a single slice
        return first, first
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


@compiled(fastmath=True)
def _line(image, corner, fraction, plane, row, first, last, out):
    """Trilinear values of the voxels `first <= k < last` of a line whose eight corners are all inside.

    `corner` is the position of each voxel's first corner in `image`, one channel, flat; `fraction` `(3, n)`
    the distance from it; `plane` and `row` the steps to the corners along x and y.
    """
    one = np.uint32(1)
    for k in range(first, last):
        at = corner[k]
        fx, fy, fz = fraction[0, k], fraction[1, k], fraction[2, k]
        a, a1 = image[at], image[at + one]
        b, b1 = image[at + row], image[at + row + one]
        d, d1 = image[at + plane], image[at + plane + one]
        e, e1 = image[at + plane + row], image[at + plane + row + one]
        a += fz * (a1 - a)
        a += fy * (b + fz * (b1 - b) - a)
        d += fz * (d1 - d)
        d += fy * (e + fz * (e1 - e) - d)
        out[k] = a + fx * (d - a)


@compiled()
def _label_line(label, flat, corner, fraction, plane, row, first, last, out):
    """Labels of the voxels of a line, with the arguments of `_line`."""
    one = np.uint32(1)
    for k in range(first, last):
        at = corner[k]
        value = flat[at]
        differs = (value ^ flat[at + one]) | (value ^ flat[at + row]) | (value ^ flat[at + row + one])
        differs |= (value ^ flat[at + plane]) | (value ^ flat[at + plane + one])
        differs |= (value ^ flat[at + plane + row]) | (value ^ flat[at + plane + row + one])
        if differs:
            x, in_plane = divmod(at, plane)
            y, z = divmod(in_plane, row)
            value = _label_at(label, x, y, z, fraction[0, k], fraction[1, k], fraction[2, k])
        out[k] = value


@compiled(
    "void(f4[:,:,:,::1], u1[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], u1[:,:,::1])",
    "void(f4[:,:,:,::1], i2[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], i2[:,:,::1])",
    fastmath=True,
)
def warp(image, label, matrix, offset, image_out, label_out):
    """Sample image (trilinear) and label (vote of the eight corners) at `matrix @ output_voxel + offset`.

    Zeros lie outside the input. Image and label share all coordinates. Each line of the output is cut into
    the parts outside, at the border and inside the input, so that the loops over the inside have no
    conditions: they read the input as flat memory, one channel after the other.

    Args:
        image: `(C, X, Y, Z)` float32; fewer than 2^32 voxels per channel.
        label: `(X, Y, Z)`.
        matrix, offset: `(3, 3)` and `(3,)` float64, output voxel -> input voxel.
        image_out, label_out: `(C, P, Q, R)` float32 and `(P, Q, R)`, overwritten.
    """
    channels, nx, ny, nz = image.shape
    px, py, pz = label_out.shape
    flat, flat_label = image.reshape(channels, nx * ny * nz), label.ravel()
    dx, dy, dz = matrix[0, 2], matrix[1, 2], matrix[2, 2]
    rim = 1e-9
    corner, fraction = np.empty(pz, np.uint32), np.empty((3, pz), np.float32)
    # Unsigned: for signed ones numba would check whether they count from the end.
    plane, row = np.uint32(ny * nz), np.uint32(nz)
    # A few adjacent lines, then the next plane: what was read for one is still in the cache for the next.
    for j_first in range(0, py, _LINES):
        for i in range(px):
            for j in range(j_first, min(py, j_first + _LINES)):
                x0 = matrix[0, 0] * i + matrix[0, 1] * j + offset[0]
                y0 = matrix[1, 0] * i + matrix[1, 1] * j + offset[1]
                z0 = matrix[2, 0] * i + matrix[2, 1] * j + offset[2]
                begin, end = _steps_within(x0, dx, -1.0, nx, 0, pz)
                begin, end = _steps_within(y0, dy, -1.0, ny, begin, end)
                begin, end = _steps_within(z0, dz, -1.0, nz, begin, end)
                first, last = _steps_within(x0, dx, rim, nx - 1 - rim, begin, end)
                first, last = _steps_within(y0, dy, rim, ny - 1 - rim, first, last)
                first, last = _steps_within(z0, dz, rim, nz - 1 - rim, first, last)
                if end - begin < pz:
                    image_out[:, i, j] = 0
                    label_out[i, j] = 0
                for rim_first, rim_last in ((begin, first), (last, end)):
                    for k in range(rim_first, rim_last):
                        x, y, z = x0 + dx * k, y0 + dy * k, z0 + dz * k
                        _at_the_rim(image, label, x, y, z, image_out, label_out, i, j, k)
                for k in range(first, last):
                    xf, yf, zf = x0 + dx * k, y0 + dy * k, z0 + dz * k
                    x, y, z = np.int32(xf), np.int32(yf), np.int32(zf)
                    corner[k] = x * plane + y * row + z
                    fraction[0, k], fraction[1, k], fraction[2, k] = xf - x, yf - y, zf - z
                for c in range(channels):
                    _line(flat[c], corner, fraction, plane, row, first, last, image_out[c, i, j])
                _label_line(label, flat_label, corner, fraction, plane, row, first, last, label_out[i, j])


@compiled(
    "void(f4[:,:,:,::1], u1[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], f4[:,:,:,::1], u1[:,:,::1])",
    "void(f4[:,:,:,::1], i2[:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1], f4[:,:,:,::1], i2[:,:,::1])",
)
def warp_by_field(image, label, matrix, offset, displacement, image_out, label_out):
    """Same as `warp`, at `matrix @ output_voxel + offset + displacement[:, output_voxel]`.

    `displacement` is `(3, P, Q, R)` float32, in input voxels.
    """
    nx, ny, nz = label.shape
    px, py, pz = label_out.shape
    for i in range(px):
        for j in range(py):
            for k in range(pz):
                # fmt: off
                x = (matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + offset[0]
                     + displacement[0, i, j, k])
                y = (matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + offset[1]
                     + displacement[1, i, j, k])
                z = (matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + offset[2]
                     + displacement[2, i, j, k])
                # fmt: on
                if -1 < x < nx and -1 < y < ny and -1 < z < nz:
                    _at_the_rim(image, label, x, y, z, image_out, label_out, i, j, k)
                else:
                    image_out[:, i, j, k] = 0
                    label_out[i, j, k] = 0


@compiled(fastmath=True)
def _mix_rows(array, index, weight, out):
    """`out[i] = sum_t weight[i, t] array[index[i, t]]`."""
    for i in range(index.shape[0]):
        row, scale = index[i, 0], weight[i, 0]
        for r in range(array.shape[1]):
            out[i, r] = scale * array[row, r]
        for t in range(1, index.shape[1]):
            row, scale = index[i, t], weight[i, t]
            for r in range(array.shape[1]):
                out[i, r] += scale * array[row, r]


@compiled("void(f4[:,:,::1], i4[:,::1], f4[:,::1], f4[:,:,::1])", fastmath=True)
def along_axis(array, index, weight, out):
    """A sparse linear operator along the middle axis, such as blurring and resampling.

    `out[o, i, r] = sum_t weight[i, t] array[o, index[i, t], r]`, with `array` `(O, N, R)`, `index` and
    `weight` `(M, T)`, and `out` `(O, M, R)`, overwritten.
    """
    outer, count, rest = array.shape
    if rest > 1:
        for o in range(outer):
            _mix_rows(array[o], index, weight, out[o])
        return
    # The last axis: blocks of rows are transposed, so that whole rows are processed here too.
    turned, mixed = np.empty((count, _TURNED), np.float32), np.empty((len(index), _TURNED), np.float32)
    for begin in range(0, outer, _TURNED):
        together = min(_TURNED, outer - begin)
        for o in range(together):
            for i in range(count):
                turned[i, o] = array[begin + o, i, 0]
        _mix_rows(turned, index, weight, mixed)
        for o in range(together):
            for i in range(len(index)):
                out[begin + o, i, 0] = mixed[i, o]


@compiled("void(f4[::1], Array(uint16, 1, 'C', True), f4[::1], f4)")
def add_drawn(array, drawn, values, factor):
    """Add `factor * values[drawn]` to an array in place: noise of the values' distribution.

    `array` is `(n,)`; `drawn` `(m,)` uniform 16 bit numbers, m >= n; `values` `(2**16,)` equally likely.
    """
    for n in range(array.size):
        array[n] += factor * values[drawn[n]]


@compiled("void(Array(uint16, 1, 'C', True), f4[::1])")
def from_half(bits, out):
    """Convert the bits of IEEE 754 binary16 numbers to float32, exactly; 20 times as fast as numpy."""
    for n in range(bits.size):
        magnitude = np.uint32((bits[n] & 0x7FFF) << 13)
        if magnitude >= 0x7C00 << 13:  # infinite, or not a number
            value = np.uint32(magnitude | 0x7F800000).view(np.float32)
        else:  # the bias of the exponent is 15 there and 127 here; valid for subnormal numbers too
            value = magnitude.view(np.float32) * np.float32(2.0**112)
        out[n] = -value if bits[n] >> 15 else value
