"""A network over a volume larger than its patch: overlapping windows, weighted and averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.runs.device import autocast

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Windows:
    """How a network is led over a volume.

    Attributes:
        patch_size: voxels of a window.
        overlap: share of a window that its neighbor along an axis covers too.
        gaussian: weight a window's center more than its rim.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are averaged in; 2^n passes.
        batch_size: windows a pass; on CPU one is as fast as many.
    """

    patch_size: Triple
    overlap: float = 0.5
    gaussian: bool = True
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1


def window_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    windows: Windows,
    *,
    device: torch.device,
    precision: str = "fp32",
    layout: torch.memory_format = torch.contiguous_format,
    heard: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Logits of a whole volume, averaged over windows, mirrored copies and networks.

    Args:
        networks: each maps `(B, C, *patch_size)` to `(B, K, *patch_size)`; in evaluation mode, on `device`.
        image: `(C, X, Y, Z)` float32, of any shape: smaller than a window is padded with zeros around.
        windows: see `Windows`.
        device: where the networks are; the sum is kept where `image` is.
        precision: of the networks' products, as in `runs.device`.
        layout: memory format of the networks' input.
        heard: called with (windows done, windows in all).

    Returns:
        `(K, X, Y, Z)` float32 on the image's device.

    Source:
        Isensee et al. 2021 (nnU-Net): window positions, Gaussian of sigma = patch / 8, mean of logits over
        mirrored copies. We depart in that the sum of the weights is never stored, as it is a product of
        three vectors, and that nothing is rounded to half precision.
    """
    shape = image.shape[1:]
    padded, start = pad_around(image, windows.patch_size)
    positions = [
        window_positions(size, patch, windows.overlap)
        for size, patch in zip(padded.shape[1:], windows.patch_size, strict=True)
    ]
    profiles = [
        gaussian_profile(patch) if windows.gaussian else torch.ones(patch) for patch in windows.patch_size
    ]
    weight = (profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]).to(image.device)
    total: Tensor | None = None
    corners = list(itertools.product(*positions))
    with torch.inference_mode():
        for first in range(0, len(corners), windows.batch_size):
            batch = corners[first : first + windows.batch_size]
            boxes = [
                tuple(slice(c, c + p) for c, p in zip(corner, windows.patch_size, strict=True))
                for corner in batch
            ]
            patches = torch.stack([padded[(slice(None), *box)] for box in boxes])
            patches = patches.to(device, memory_format=layout)
            with autocast(device, precision):
                logits = _mean_over_copies(networks, patches, windows.mirror_axes)
            if total is None:
                total = torch.zeros((logits.shape[1], *padded.shape[1:]), device=image.device)
            for box, each in zip(boxes, logits.to(image.device), strict=True):
                total[(slice(None), *box)].addcmul_(each, weight)
            heard(min(first + len(batch), len(corners)), len(corners))
        assert total is not None
        for axis, (profile, starts) in enumerate(zip(profiles, positions, strict=True)):
            covered = torch.zeros(padded.shape[1 + axis])
            for corner in starts:
                covered[corner : corner + len(profile)] += profile
            total /= covered.to(total.device).view([-1 if i == axis else 1 for i in range(3)])
        box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        return total[(slice(None), *box)]


def _mean_over_copies(networks: Sequence[nn.Module], patches: Tensor, mirror_axes: Sequence[int]) -> Tensor:
    """`(B, C, X, Y, Z)` -> `(B, K, X, Y, Z)` float32: mean over networks and mirrored copies."""
    total: Tensor | None = None
    copies = [
        [2 + axis for axis in chosen]
        for count in range(len(mirror_axes) + 1)
        for chosen in itertools.combinations(mirror_axes, count)
    ]
    for flips in copies:
        turned = torch.flip(patches, flips) if flips else patches
        for network in networks:
            logits = network(turned).float()
            logits = torch.flip(logits, flips) if flips else logits
            total = logits if total is None else total + logits
    assert total is not None
    return total / (len(copies) * len(networks))


def window_positions(size: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: evenly spread, neighbors share `overlap` or more.

    >>> window_positions(155, 128, 0.5), window_positions(64, 64, 0.5), window_positions(10, 4, 0.5)
    ([0, 27], [0], [0, 2, 4, 6])
    """
    if size <= patch:
        return [0]
    step = patch * (1 - overlap)
    count = int(-(-(size - patch) // step)) + 1
    actual = (size - patch) / (count - 1)
    return [round(actual * i) for i in range(count)]


def gaussian_profile(size: int) -> Tensor:
    """Weights along one axis: a Gaussian of sigma = size / 8 around the center.

    The rim lies at four sigma: the product of three is 4e-11 in a corner, which float32 holds.
    """
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-0.5 * (offset / (size / 8)) ** 2).float()


def pad_around(image: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, Triple]:
    """Zeros on both sides of `(C, X, Y, Z)` up to the patch size; also says where the image then begins."""
    missing = [max(patch - size, 0) for size, patch in zip(image.shape[1:], patch_size, strict=True)]
    start = (missing[0] // 2, missing[1] // 2, missing[2] // 2)
    if not any(missing):
        return image, start
    pads = [p for s, m in zip(reversed(start), reversed(missing), strict=True) for p in (s, m - s)]
    return functional.pad(image, pads), start
