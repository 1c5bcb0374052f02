"""Augmentation of training patches: one fused affine for image and label, then intensities.

The geometric part (mirror, rotation, scale) is one matrix, applied to image and label in one pass, so that
each is interpolated once and they move together. Distributions and order are those of nnU-Net, except for the
departures stated below.

Source: Isensee et al. 2021, supplement "Data augmentation", and batchgeneratorsv2 as nnU-Net 2 configures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mambamed.batches.elastic import Displacement, place_of, random_displacement
from mambamed.batches.kernels import add_drawn, along_axis, from_half, warp, warp_by_field
from mambamed.preparation.image_kernels import moments
from mambamed.recipe import Augment

Triple = tuple[int, int, int]
_BLUR_RADIUS = 3  # in sigmas: what lies beyond has a weight of 0.3 %
_INVERTED_GAMMA = 0.25  # fraction of gamma changes made on the negative: nnU-Net's 0.1 of 0.1 + 0.3


@dataclass(frozen=True)
class Spatial:
    """Mapping from a patch's voxels to those of the prepared grid."""

    matrix: NDArray[np.float64]  # `(3, 3)`, patch voxel -> prepared voxel, about the patch's center
    mirrored: tuple[int, ...] | None  # axes to mirror if nothing else is done, else None
    displacement: Displacement | None = None  # added to it, in prepared voxels
    across_x: bool = False  # whether left and right have changed places

    def place_of(self, points: NDArray, offset: NDArray) -> NDArray:
        """`(n, 3)` prepared voxels -> patch voxels; `offset` as from `source_box`."""
        if self.displacement is not None:
            return place_of(points, self.matrix, offset, self.displacement)
        return np.linalg.solve(self.matrix, (points - offset).T).T


def random_spatial(
    augment: Augment,
    spacing_mm: tuple[float, ...],
    random: np.random.Generator,
    patch_size: Triple = (1, 1, 1),
) -> Spatial:
    """Draw mirror, rotation, scale and elastic deformation.

    Departure: rotations are in mm, even if voxels are anisotropic; nnU-Net rotates in voxels. A scale s above
    1 shows structures s times larger; scales above and below 1 are equally likely.
    """
    mirror = np.ones(3)
    for axis in augment.mirror:
        mirror["xyz".index(axis)] = 1.0 if random.random() < 0.5 else -1.0
    rotated, scaled = random.random() < augment.rotate, random.random() < augment.scale
    displacement = None
    if augment.elastic and random.random() < augment.elastic:
        std = random.uniform(0, augment.elastic_mm)
        displacement = random_displacement(std, augment.elastic_smoothness_mm, spacing_mm, patch_size, random)
    if not rotated and not scaled and displacement is None:
        axes = tuple(int(a) for a in np.flatnonzero(mirror < 0))
        return Spatial(np.diag(mirror), axes, across_x=0 in axes)
    matrix = np.diag(mirror)
    if rotated:
        angles = np.deg2rad(random.uniform(-augment.rotate_degrees, augment.rotate_degrees, 3))
        spacing = np.asarray(spacing_mm, dtype=float)
        matrix = (rotation(angles) * spacing[None, :] / spacing[:, None]) @ matrix
    if scaled:
        matrix = matrix / two_sided(augment.scale_range, random)
    return Spatial(matrix, None, displacement, across_x=bool(mirror[0] < 0))


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(3, 3)`: rotate about x, then y, then z; radians.

    >>> rotation(np.array([0, 0, np.pi / 2])).round().tolist()
    [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        sign = -1.0 if axis == 1 else 1.0  # about y the positive direction is from z to x
        turn[a, b], turn[b, a] = -sign * np.sin(angle), sign * np.sin(angle)
        matrix = turn @ matrix
    return matrix


def two_sided(bounds: tuple[float, float], random: np.random.Generator) -> float:
    """A factor below or above 1 with equal probability, uniform on each side; uniform if 1 is not inside."""
    low, high = bounds
    if low < 1 < high:
        low, high = (low, 1.0) if random.random() < 0.5 else (1.0, high)
    return float(random.uniform(low, high))


def source_box(spatial: Spatial, start: Triple, patch_size: Triple) -> tuple[NDArray, NDArray, NDArray]:
    """The prepared voxels that a patch touches.

    Returns the first and last + 1 of them, maybe outside the case, and the place of the patch's first voxel.
    """
    half = (np.asarray(patch_size) - 1) / 2
    center = np.asarray(start) + half
    reach = np.abs(spatial.matrix) @ half
    if spatial.displacement is not None:
        reach = reach + spatial.displacement.largest
    offset = center - spatial.matrix @ half
    low, high = np.floor(center - reach + 1e-9), np.floor(center + reach - 1e-9) + 2
    return low.astype(int), high.astype(int), offset


def apply_spatial(
    image: NDArray, label: NDArray, box_start: NDArray, spatial: Spatial, offset: NDArray, patch_size: Triple
) -> tuple[NDArray[np.float32], NDArray]:
    """Fill a patch from the box that was read.

    Args:
        image: `(C, X, Y, Z)` float32, the part of `source_box` inside the case.
        label: `(X, Y, Z)` of the same box, uint8 or int16.
        box_start: prepared voxel of the box's first voxel.
        spatial, offset: see `source_box`.

    Returns: `(C, *patch_size)` float32 and `(*patch_size)`; zeros outside the case.
    """
    overwritten = spatial.mirrored is None or label.shape == tuple(patch_size)
    make = np.empty if overwritten else np.zeros
    patch = make((image.shape[0], *patch_size), np.float32)
    target = make(patch_size, label.dtype)
    if spatial.mirrored is None:
        arrays = (np.ascontiguousarray(each) for each in (image, label, spatial.matrix))
        if spatial.displacement is None:
            warp(*arrays, offset - box_start, patch, target)
        else:
            warp_by_field(*arrays, offset - box_start, spatial.displacement.dense(patch_size), patch, target)
        return patch, target
    # Only mirrored: copy, each axis forwards or backwards.
    into, backwards = [], []
    for axis, size in enumerate(patch_size):
        flipped = axis in spatial.mirrored
        first = offset[axis] - size + 1 if flipped else offset[axis]
        into.append(slice(begin := round(box_start[axis] - first), begin + label.shape[axis]))
        backwards.append(slice(None, None, -1 if flipped else 1))
    patch[(slice(None), *backwards)][(slice(None), *into)] = image
    target[tuple(backwards)][tuple(into)] = label
    return patch, target


def as_float32(image: NDArray) -> NDArray[np.float32]:
    """The image in float32, C-contiguous and writable; fast for float16, the type of prepared images."""
    if image.dtype != np.float16:
        return np.require(image, np.float32, ["C", "W"])
    wide = np.empty(image.shape, np.float32)
    from_half(np.ascontiguousarray(image).reshape(-1).view(np.uint16), wide.reshape(-1))
    return wide


def change_intensities(
    patch: NDArray[np.float32], augment: Augment, random: np.random.Generator
) -> NDArray[np.float32]:
    """Noise, blur, brightness, contrast, low resolution, gamma, in nnU-Net's order, each by its probability;
    then channels are set to zero, except for at least one.

    Factors are drawn per channel; blur and low resolution skip each channel with probability one half. The
    `(C, X, Y, Z)` patch, C-contiguous, is changed in place.
    """
    channels = range(len(patch))
    if random.random() < augment.noise:
        add_noise(patch, random.uniform(0, augment.noise_std), random)
    if random.random() < augment.blur:
        for c in _some(channels, random):
            patch[c] = blur(patch[c], random.uniform(*augment.blur_sigma))
    if random.random() < augment.brightness:
        for c in channels:
            patch[c] *= np.float32(random.uniform(*augment.brightness_range))
    if random.random() < augment.contrast:
        for c in channels:
            change_contrast(patch[c], two_sided(augment.contrast_range, random))
    if random.random() < augment.low_resolution:
        for c in _some(channels, random):
            patch[c] = lower_resolution(patch[c], random.uniform(*augment.low_resolution_range))
    if random.random() < augment.gamma:
        negative = random.random() < _INVERTED_GAMMA
        for c in channels:
            change_gamma(patch[c], two_sided(augment.gamma_range, random), negative)
    if augment.drop_channel:
        stays = random.integers(len(patch))
        for c in channels:
            if random.random() < augment.drop_channel and c != stays:
                patch[c] = 0
    return patch


def _some(channels: range, random: np.random.Generator) -> list[int]:
    """A random half of the channels, at least one."""
    chosen = [c for c in channels if random.random() < 0.5]
    return chosen or [int(random.integers(len(channels)))]


def add_noise(volume: NDArray[np.float32], std: float, random: np.random.Generator) -> None:
    """Add normally distributed noise, in place.

    It is one of 2^16 quantiles of the normal distribution, up to 4.4 std: 7 times as fast as exact numbers.
    """
    drawn = random.integers(2**64, size=-(-volume.size // 4), dtype=np.uint64).view(np.uint16)
    add_drawn(volume.reshape(-1), drawn, _normal_quantiles(), std)


@cache
def _normal_quantiles() -> NDArray[np.float32]:
    """`(2**16,)`: the middle of each of as many equally likely parts of the standard normal distribution."""
    from scipy.special import ndtri  # slow to import

    values = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (values / values.std()).astype(np.float32)


def change_contrast(volume: NDArray[np.float32], factor: float) -> None:
    """Scale about the mean, in place, and clip to the previous range."""
    low, high, (mean, _, _) = volume.min(), volume.max(), moments(volume)
    volume *= np.float32(factor)
    volume += np.float32(mean * (1 - factor))
    np.clip(volume, low, high, out=volume)


def change_gamma(volume: NDArray[np.float32], gamma: float, negative: bool) -> None:
    """Raise intensities, scaled to 0..1, to the power gamma, in place; mean and standard deviation remain.

    With `negative`, the image is inverted before and after.
    """
    mean, std, _ = moments(volume)
    low, high = float(volume.min()), float(volume.max())
    if not high - low > 1e-7:
        return
    sign = -1 if negative else 1
    volume -= np.float32(high if negative else low)
    volume *= np.float32(sign / (high - low))
    # The power through the logarithm is twice as fast as np.power. 0 stays 0.
    with np.errstate(divide="ignore"):
        np.log(volume, out=volume)
    volume *= np.float32(gamma)
    np.exp(volume, out=volume)
    now_mean, now_std, _ = moments(volume)
    scale = std / max(now_std, 1e-7) * sign
    volume *= np.float32(scale)
    volume += np.float32(mean - scale * now_mean)


def blur(volume: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian of `sigma` voxels along every axis, the border reflected."""
    radius = max(1, int(_BLUR_RADIUS * sigma + 0.5))
    shifts = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (shifts / sigma) ** 2)
    weights /= weights.sum()
    for axis, size in enumerate(volume.shape):
        index = np.arange(size)[:, None] + shifts
        index = np.abs(index) if size > 1 else np.zeros_like(index)
        index = np.where(index >= size, 2 * (size - 1) - index, index).clip(0, size - 1)
        volume = _operate(volume, axis, index, np.broadcast_to(weights, index.shape))
    return volume


def lower_resolution(volume: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Downsample every axis by `zoom` with nearest neighbors, and upsample by linear interpolation."""
    for axis, size in enumerate(volume.shape):
        coarse = max(1, round(size * zoom))
        nearest = ((np.arange(coarse) + 0.5) * size / coarse).astype(int).clip(0, size - 1)
        at = ((np.arange(size) + 0.5) * coarse / size - 0.5).clip(0, coarse - 1)
        below = at.astype(int)
        above = np.minimum(below + 1, coarse - 1)
        index = np.stack([nearest[below], nearest[above]], axis=1)
        weights = np.stack([1 - (at - below), at - below], axis=1)
        volume = _operate(volume, axis, index, weights)
    return volume


def _operate(volume: NDArray[np.float32], axis: int, index: NDArray, weights: NDArray) -> NDArray[np.float32]:
    shape = volume.shape
    out = np.empty(shape, np.float32)
    folded = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    along_axis(
        np.ascontiguousarray(volume).reshape(folded),
        np.ascontiguousarray(index, dtype=np.int32),
        np.ascontiguousarray(weights, dtype=np.float32),
        out.reshape(folded),
    )
    return out
