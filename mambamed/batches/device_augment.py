"""Augmentation by torch on the device of the network, from the random numbers of `augment`.

A patch equals that of the CPU: its labels exactly, its image up to rounding. Only the sources of a patch are
read and drawn on the CPU: the box of the case, the matrix, the changes of its intensities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mambamed.batches.augment import (
    Change,
    Spatial,
    Triple,
    blur_operator,
    mirrored_place,
    normal_quantiles,
    zoom_operator,
)
from mambamed.run.streams import copied

_CORNERS = range(8)  # bits: 4 along x, 2 along y, 1 along z


@dataclass(frozen=True)
class PatchSources:
    """All from which a patch is made.

    Attributes:
        image: `(C, X, Y, Z)` float16 or float32: the part of the case that the patch touches.
        label: `(X, Y, Z)` int16 of the same box; None if the target is not one number per voxel.
        box_start: prepared voxel of the box's first voxel.
        spatial, offset: see `augment.source_box`.
        changes: of the intensities.
        drawn: the numbers of each change that has such, as int16.
        covariates: `(M,)` constant channels that follow those of the image.
    """

    image: Tensor
    label: Tensor | None
    box_start: NDArray
    spatial: Spatial
    offset: NDArray
    changes: tuple[Change, ...]
    drawn: tuple[Tensor, ...]
    covariates: NDArray

    def moved(self, move: Callable[[Tensor], Tensor]) -> PatchSources:
        """With all large tensors moved."""
        label = None if self.label is None else move(self.label)
        return replace(
            self, image=move(self.image), label=label, drawn=tuple(move(each) for each in self.drawn)
        )

    def patch(self, patch_size: Triple) -> tuple[Tensor, Tensor | None]:
        """`(C + M, *patch_size)` float32 and `(*patch_size)` int16, where the tensors are."""
        image, label = self._placed(patch_size)
        drawn = iter(self.drawn)
        for change in self.changes:
            change_on_device(image, change, next(drawn) if change.kind == "noise" else None)
        if len(self.covariates):
            values = copied(torch.from_numpy(np.asarray(self.covariates, np.float32)), image.device)
            image = torch.cat([image, values[:, None, None, None].expand(-1, *patch_size)])
        return image, label

    def _placed(self, patch_size: Triple) -> tuple[Tensor, Tensor | None]:
        image, label, spatial = self.image.float(), self.label, self.spatial
        if spatial.mirrored is None:
            relative = self.offset - self.box_start
            places = coordinates(spatial, relative, patch_size, image.device)
            return sample(image, places), None if label is None else vote(label, places)
        into = mirrored_place(
            spatial.mirrored, self.box_start, self.offset, tuple(image.shape[1:]), patch_size
        )
        made = image.new_zeros((len(image), *patch_size))
        made[(slice(None), *into)] = image
        made = made.flip([1 + axis for axis in spatial.mirrored])
        if label is None:
            return made, None
        target = label.new_zeros(patch_size)
        target[into] = label
        return made, target.flip(spatial.mirrored)


def coordinates(spatial: Spatial, offset: NDArray, patch_size: Triple, device: torch.device) -> list[Tensor]:
    """Three `(*patch_size)` float64: where each voxel of the patch lies in the box."""
    i, j, k = (
        torch.arange(size, dtype=torch.float64, device=device).view(
            [-1 if a == axis else 1 for a in range(3)]
        )
        for axis, size in enumerate(patch_size)
    )
    rows = zip(spatial.matrix.tolist(), offset.tolist(), strict=True)
    places = [x * i + y * j + start + z * k for (x, y, z), start in rows]
    if spatial.displacement is None:
        return places
    moved = copied(torch.from_numpy(spatial.displacement.control), device)
    for axis, size in enumerate(patch_size, start=1):
        weights = copied(torch.from_numpy(spatial.displacement.weights(np.arange(size), axis - 1)), device)
        moved = (moved.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return [place + each.float() for place, each in zip(places, moved, strict=True)]


def sample(image: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Trilinear values of `(C, X, Y, Z)` at `places`, with zeros outside."""
    sizes = image.shape[1:]
    scaled = [(2 * place + 1) / size - 1 for place, size in zip(places, sizes, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1).float()
    sampled = functional.grid_sample(
        image[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled[0]


def vote(label: Tensor, places: Sequence[Tensor]) -> Tensor:
    """The label with the largest trilinear weight among the eight corners; outside is 0.

    Of equal weights the nearest corner decides, as in `kernels.warp`.
    """
    padded = functional.pad(label, (2,) * 6)
    _, columns, depth = padded.shape
    wholes = [place.floor() for place in places]
    parts = [(place - whole).float() for place, whole in zip(places, wholes, strict=True)]
    x, y, z = (whole.clamp(-2, size).long() + 2 for whole, size in zip(wholes, label.shape, strict=True))
    first, flat = (x * columns + y) * depth + z, padded.flatten()
    steps = [(b >> 2) * columns * depth + (b >> 1 & 1) * depth + (b & 1) for b in _CORNERS]
    labels = torch.stack([flat[first + step] for step in steps])
    near, far = [1 - part.double() for part in parts], [part.double() for part in parts]
    weights = [
        (far[0] if b >> 2 else near[0]) * (far[1] if b >> 1 & 1 else near[1]) * (far[2] if b & 1 else near[2])
        for b in _CORNERS
    ]
    fx, fy, fz = ((part > 0.5).long() for part in parts)
    nearest = 4 * fx + 2 * fy + fz
    best = torch.zeros_like(labels[0])
    most = torch.full_like(weights[0], -1.0)
    for corner in _CORNERS:
        candidate = labels.gather(0, (nearest ^ corner)[None])[0]
        weight = torch.zeros_like(most)
        for own, each in zip(labels, weights, strict=True):
            weight += torch.where(own == candidate, each, 0.0)
        better = weight > most + 1e-6
        best, most = torch.where(better, candidate, best), torch.where(better, weight, most)
    return best


def change_on_device(patch: Tensor, change: Change, drawn: Tensor | None = None) -> None:
    """Apply a change to a `(C, X, Y, Z)` patch, in place; see the functions of these names in `augment`."""
    volume, amount = patch[change.channel], change.amount
    match change.kind:
        case "noise":
            assert drawn is not None
            quantiles = copied(torch.from_numpy(normal_quantiles()), patch.device)
            numbers = drawn[: patch.numel()].int() & 0xFFFF
            patch += amount * quantiles[numbers].view(patch.shape)
        case "blur":
            volume.copy_(_operated(volume, amount, blur_operator))
        case "brightness":
            volume *= amount
        case "contrast":
            low, high, mean = volume.min(), volume.max(), volume.mean()
            volume.mul_(amount).add_(mean * (1 - amount)).clamp_(low, high)
        case "low_resolution":
            volume.copy_(_operated(volume, amount, zoom_operator))
        case "gamma":
            _change_gamma(volume, amount, change.negative)
        case "drop_channel":
            volume.zero_()


def _change_gamma(volume: Tensor, gamma: float, negative: bool) -> None:
    std, mean = torch.std_mean(volume, correction=0)
    low, high = volume.min(), volume.max()
    sign = -1.0 if negative else 1.0
    span = (high - low).clamp_min(1e-30)
    changed = ((volume - (high if negative else low)) * (sign / span)).clamp_min(0).pow(gamma)
    now_std, now_mean = torch.std_mean(changed, correction=0)
    scale = std / now_std.clamp_min(1e-7) * sign
    changed = changed * scale + (mean - scale * now_mean)
    volume.copy_(torch.where(high - low > 1e-7, changed, volume))  # no waiting for the device


def _operated(
    volume: Tensor, amount: float, operator: Callable[[int, float], tuple[NDArray, NDArray]]
) -> Tensor:
    """A linear operator along every axis, as a matrix product."""
    for axis, size in enumerate(volume.shape):
        index, weight = operator(size, amount)
        matrix = np.zeros((len(index), size), np.float32)
        np.add.at(matrix, (np.arange(len(index))[:, None], index), weight)
        turned = copied(torch.from_numpy(matrix), volume.device)
        volume = (volume.movedim(axis, -1) @ turned.T).movedim(-1, axis)
    return volume
