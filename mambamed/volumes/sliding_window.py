"""Sliding-window inference: overlapping windows, weighted and averaged.

The windows move along one axis, row after row; planes that no later window reaches are returned as a `Slab`.
So the stored sum is only one window thick, however long the volume is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import CaseError
from mambamed.volumes.forward import ForwardPass
from mambamed.volumes.window_source import Box, WindowSource
from mambamed.volumes.window_sum import Slab, WindowSum

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Windows:
    """How windows cover a volume."""

    patch_size: Triple  # voxels of a window
    overlap: float = 0.5  # fraction of a window that its neighbor along an axis covers too
    gaussian: bool = True  # weight the center of a window more than its border
    like_nnunet: bool = False  # the center of the Gaussian is voxel size // 2, half a voxel behind the middle
    mirror_axes: tuple[int, ...] = ()  # spatial axes whose mirrored copies are included; 2^n passes
    batch_size: int = 1  # windows per pass; on a CPU one is as fast as many
    mirror_order: tuple[int, ...] | None = None  # see `forward.ForwardPass`


def window_slabs(
    networks: Sequence[nn.Module],
    image: Tensor,
    windows: Windows,
    *,
    device: torch.device,
    precision: str = "fp32",
    layout: torch.memory_format = torch.contiguous_format,
    axis: int | None = None,
    max_ram: int | None = None,
    max_windows: int | None = None,
    resident: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_message: Callable[[str], None] = lambda line: None,
    also: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Slab]:
    """Logits of a whole volume, averaged over windows, mirrored copies and networks, plane after plane.

    Args:
        networks: each maps `(B, C, *patch_size)` to `(B, K, *patch_size)`; in evaluation mode, on `device`.
        image: `(C, X, Y, Z)` float32 on the CPU; padded with zeros on both sides if smaller than a window.
        device, precision, layout: see `ForwardPass`. The sum is kept on the device if it fits, else on a CPU.
        axis: the slabs' axis; None: see `slab_axis`.
        max_ram: bytes that this process may use; None: no limit.
        max_windows: the largest number of windows; None: no limit.
        resident: whether slabs stay on a GPU that holds the sum, so that it chooses the labels.
        on_progress: callback that receives (windows done, all windows).
        on_message: callback that receives what was changed because memory ran out.
        also: see `ForwardPass`.

    Yields:
        Slabs without gaps, in order; together they are the volume.

    Raises:
        CaseError: a network outputs NaN or Inf, or the sum of the windows does not fit into `max_ram`.
        RunError: the device has too little memory for a single window.

    Source:
        Isensee et al. 2021 (nnU-Net): overlap one half, Gaussian of sigma = patch / 8. Departures: the sum of
        weights is a product of three vectors; nothing is rounded to half precision; the result of a window
        whose voxels are all equal, e.g. outside the body, is reused.
    """
    padded, begin = pad_around(image, windows.patch_size)
    axis = slab_axis(padded.shape[1:], windows.patch_size) if axis is None else axis
    sides = list(zip(padded.shape[1:], windows.patch_size, strict=True))
    count = math.prod(windows_along(size, patch, windows.overlap) for size, patch in sides)
    if max_windows is not None and count > max_windows:
        size, patch = (" x ".join(map(str, shape)) for shape in (image.shape[1:], windows.patch_size))
        raise CaseError(
            f"its {size} prepared voxels need {count} windows of {patch}, and --max-windows allows "
            f"{max_windows}. Allow more, choose a smaller --overlap, or crop the image."
        )
    starts = [window_positions(size, patch, windows.overlap) for size, patch in sides]
    total = WindowSum(
        windows.patch_size, windows.gaussian, padded.shape[1:], starts, axis, on_message=on_message,
        max_ram=max_ram, like_nnunet=windows.like_nnunet, resident=resident,
    )  # fmt: skip
    source = WindowSource(padded, device)

    def free_memory() -> bool:
        freed = source.give_back()
        return total.move_to_cpu() or freed

    forward = ForwardPass(
        networks, windows.mirror_axes, windows.batch_size, device, precision, layout, on_message,
        free_memory=free_memory, mirror_order=windows.mirror_order, also=also,
    )  # fmt: skip

    def corners_from(plane: int) -> list[Sequence[int]]:
        return list(itertools.product(*([plane] if a == axis else s for a, s in enumerate(starts))))

    def boxes_of(corners: Sequence[Sequence[int]]) -> list[Box]:
        sizes = windows.patch_size
        return [
            (slice(None), *(slice(c, c + p) for c, p in zip(corner, sizes, strict=True)))
            for corner in corners
        ]

    done = 0
    for first_plane, next_plane in itertools.zip_longest(starts[axis], starts[axis][1:]):
        for slab in total.planes_before(first_plane):
            yield from _without_padding(slab, begin, image.shape[1:])
        row = corners_from(first_plane)
        while row:
            corners, row = row[: forward.batch_size], row[forward.batch_size :]
            boxes = boxes_of(corners)
            if not done:
                source.prepare(boxes)
            patches = [padded[box] for box in boxes]
            results = forward(patches, source.cut(boxes))
            following = row or ([] if next_plane is None else corners_from(next_plane))
            source.prepare(boxes_of(following[: forward.batch_size]))
            for corner, logits in zip(corners, results, strict=True):
                total.add(corner, logits)
            done += len(corners)
            on_progress(done, count)
    for slab in total.planes_before(padded.shape[1 + axis]):
        yield from _without_padding(slab, begin, image.shape[1:])


def window_logits(networks: Sequence[nn.Module], image: Tensor, windows: Windows, **options: Any) -> Tensor:
    """`window_slabs` concatenated: `(K, X, Y, Z)` float32 on the CPU. Needs the memory of K volumes."""
    slabs = window_slabs(networks, image, windows, axis=0, **options)
    return torch.cat([slab.planes for slab in slabs]).movedim(0, 1)


def _without_padding(slab: Slab, begin: Triple, shape: Sequence[int]) -> Iterator[Slab]:
    """The part of a slab that lies in the image."""
    first, size = begin[slab.axis], shape[slab.axis]
    low, high = max(slab.start, first), min(slab.stop, first + size)
    if low >= high:
        return
    a, b = (slice(begin[k], begin[k] + shape[k]) for k in range(3) if k != slab.axis)
    planes = slab.planes[low - slab.start : high - slab.start, :, a, b]
    yield Slab(slab.axis, low - first, planes.contiguous())


def slab_axis(shape: Sequence[int], patch_size: Sequence[int], thrifty: bool = False) -> int:
    """The axis along which the sum needs least memory.

    The first axis, which is fastest, if it needs little more and memory is not limited (`thrifty`).

    >>> slab_axis((140, 170, 150), (128, 128, 128)), slab_axis((270, 270, 600), (96, 96, 96))
    (0, 2)
    """
    taken = [patch / size for patch, size in zip(patch_size, shape, strict=True)]
    best = taken.index(min(taken))
    return best if thrifty or taken[best] < 0.6 * taken[0] else 0


def windows_along(size: int, patch: int, overlap: float) -> int:
    """Number of windows along one axis; at most one begins at each voxel.

    >>> windows_along(155, 128, 0.5), windows_along(512, 128, 0.999999)
    (2, 385)
    """
    if size <= patch:
        return 1
    return min(int(-(-(size - patch) // (patch * (1 - overlap)))) + 1, size - patch + 1)


def window_positions(size: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: evenly spaced, neighbors share at least `overlap`.

    >>> window_positions(155, 128, 0.5), window_positions(64, 64, 0.5), window_positions(10, 4, 0.5)
    ([0, 27], [0], [0, 2, 4, 6])
    """
    count = windows_along(size, patch, overlap)
    actual = (size - patch) / max(count - 1, 1)
    return [round(actual * i) for i in range(count)]


def pad_around(image: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, Triple]:
    """Pad `(C, X, Y, Z)` with zeros on both sides to the patch size; also return where the image begins."""
    missing = [max(patch - size, 0) for size, patch in zip(image.shape[1:], patch_size, strict=True)]
    start = (missing[0] // 2, missing[1] // 2, missing[2] // 2)
    if not any(missing):
        return image, start
    pads = [p for s, m in zip(reversed(start), reversed(missing), strict=True) for p in (s, m - s)]
    return functional.pad(image, pads), start
