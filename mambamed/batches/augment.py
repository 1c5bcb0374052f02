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
    into = mirrored_place(spatial.mirrored, box_start, offset, label.shape, patch_size)
    backwards = tuple(slice(None, None, -1 if axis in spatial.mirrored else 1) for axis in range(3))
    patch[(slice(None), *backwards)][(slice(None), *into)] = image
    target[backwards][into] = label
    return patch, target


def mirrored_place(
    mirrored: tuple[int, ...], box_start: NDArray, offset: NDArray, box: tuple[int, ...], patch_size: Triple
) -> tuple[slice, ...]:
    """Where a box of this shape lies in a patch that is mirrored afterwards."""
    firsts = [offset[a] - size + 1 if a in mirrored else offset[a] for a, size in enumerate(patch_size)]
    begins = [round(start - first) for start, first in zip(box_start, firsts, strict=True)]
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, box, strict=True))


def as_float32(image: NDArray) -> NDArray[np.float32]:
    """The image in float32, C-contiguous and writable; fast for float16, the type of prepared images."""
    if image.dtype != np.float16:
        return np.require(image, np.float32, ["C", "W"])
    wide = np.empty(image.shape, np.float32)
    from_half(np.ascontiguousarray(image).reshape(-1).view(np.uint16), wide.reshape(-1))
    return wide


@dataclass(frozen=True)
class Change:
    """One change of the intensities of a patch, with its random numbers."""

    kind: str  # noise, blur, brightness, contrast, low_resolution, gamma or drop_channel
    channel: int = 0  # of all but noise
    amount: float = 0.0  # standard deviation, sigma, factor, zoom or exponent
    negative: bool = False  # of gamma
    drawn: NDArray[np.uint16] | None = None  # of noise: see `add_noise`


def draw_changes(shape: tuple[int, ...], augment: Augment, random: np.random.Generator) -> list[Change]:
    """Draw noise, blur, brightness, contrast, low resolution, gamma, in nnU-Net's order, each by its
    probability; then channels that are set to zero, except for at least one.

    Factors are drawn per channel; blur and low resolution skip each channel with probability one half.
    `shape` is that of the `(C, X, Y, Z)` patch.
    """
    channels, made = range(shape[0]), []
    if random.random() < augment.noise:
        std = random.uniform(0, augment.noise_std)
        made.append(Change("noise", amount=std, drawn=draw_noise(math.prod(shape), random)))
    if random.random() < augment.blur:
        made += [Change("blur", c, random.uniform(*augment.blur_sigma)) for c in _some(channels, random)]
    if random.random() < augment.brightness:
        made += [Change("brightness", c, random.uniform(*augment.brightness_range)) for c in channels]
    if random.random() < augment.contrast:
        made += [Change("contrast", c, two_sided(augment.contrast_range, random)) for c in channels]
    if random.random() < augment.low_resolution:
        zooms = augment.low_resolution_range
        made += [Change("low_resolution", c, random.uniform(*zooms)) for c in _some(channels, random)]
    if random.random() < augment.gamma:
        negative = random.random() < _INVERTED_GAMMA
        made += [Change("gamma", c, two_sided(augment.gamma_range, random), negative) for c in channels]
    if augment.drop_channel:
        stays = random.integers(len(channels))
        made += [
            Change("drop_channel", c)
            for c in channels
            if random.random() < augment.drop_channel and c != stays
        ]
    return made


def change_intensities(
    patch: NDArray[np.float32], augment: Augment, random: np.random.Generator
) -> NDArray[np.float32]:
    """Draw changes and apply them, in place, to a `(C, X, Y, Z)` patch, C-contiguous."""
    for change in draw_changes(patch.shape, augment, random):
        volume, amount = patch[change.channel], change.amount
        match change.kind:
            case "noise":
                assert change.drawn is not None
                add_drawn(patch.reshape(-1), change.drawn, normal_quantiles(), amount)
            case "blur":
                volume[...] = blur(volume, amount)
            case "brightness":
                volume *= np.float32(amount)
            case "contrast":
                change_contrast(volume, amount)
            case "low_resolution":
                volume[...] = lower_resolution(volume, amount)
            case "gamma":
                change_gamma(volume, amount, change.negative)
            case "drop_channel":
                volume[...] = 0
    return patch


def _some(channels: range, random: np.random.Generator) -> list[int]:
    """A random half of the channels, at least one."""
    chosen = [c for c in channels if random.random() < 0.5]
    return chosen or [int(random.integers(len(channels)))]


def add_noise(volume: NDArray[np.float32], std: float, random: np.random.Generator) -> None:
    """Add normally distributed noise, in place.

    It is one of 2^16 quantiles of the normal distribution, up to 4.4 std: 7 times as fast as exact numbers.
    """
    add_drawn(volume.reshape(-1), draw_noise(volume.size, random), normal_quantiles(), std)


def draw_noise(count: int, random: np.random.Generator) -> NDArray[np.uint16]:
    """At least `count` numbers of quantiles."""
    return random.integers(2**64, size=-(-count // 4), dtype=np.uint64).view(np.uint16)


@cache
def normal_quantiles() -> NDArray[np.float32]:
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
    for axis, size in enumerate(volume.shape):
        volume = _operate(volume, axis, *blur_operator(size, sigma))
    return volume


def blur_operator(size: int, sigma: float) -> tuple[NDArray, NDArray]:
    """Index and weight, `(size, taps)`, of the voxels of a line from which each new one is summed."""
    radius = max(1, int(_BLUR_RADIUS * sigma + 0.5))
    shifts = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (shifts / sigma) ** 2)
    weights /= weights.sum()
    index = np.arange(size)[:, None] + shifts
    index = np.abs(index) if size > 1 else np.zeros_like(index)
    index = np.where(index >= size, 2 * (size - 1) - index, index).clip(0, size - 1)
    return index, np.broadcast_to(weights, index.shape)


def lower_resolution(volume: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Downsample every axis by `zoom` with nearest neighbors, and upsample by linear interpolation."""
    for axis, size in enumerate(volume.shape):
        volume = _operate(volume, axis, *zoom_operator(size, zoom))
    return volume


def zoom_operator(size: int, zoom: float) -> tuple[NDArray, NDArray]:
    """Same as `blur_operator`, for `lower_resolution`."""
    coarse = max(1, round(size * zoom))
    nearest = ((np.arange(coarse) + 0.5) * size / coarse).astype(int).clip(0, size - 1)
    at = ((np.arange(size) + 0.5) * coarse / size - 0.5).clip(0, coarse - 1)
    below = at.astype(int)
    above = np.minimum(below + 1, coarse - 1)
    index = np.stack([nearest[below], nearest[above]], axis=1)
    return index, np.stack([1 - (at - below), at - below], axis=1)


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
