"""A network over a volume larger than its patch: overlapping windows, weighted and averaged.

The windows go along one axis, row after row; planes that no further window reaches leave as a `Slab`. So
the sum that is kept is one window thick, however long the volume is.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import CaseError
from mambamed.inference.answers import Answers

Triple = tuple[int, int, int]

_SLABS_AT_ONCE = 6  # being made, waiting, being brought to native voxels
SLAB_BYTES = 2**26  # what one slab holds at most, unless a single plane is larger


@dataclass(frozen=True)
class Windows:
    """How a network is led over a volume.

    Attributes:
        patch_size: voxels of a window.
        overlap: share of a window that its neighbor along an axis covers too.
        gaussian: weight a window's center more than its rim.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are averaged in; 2^n passes.
        batch_size: windows a pass; on CPU one is as fast as many.
        mirror_order: as in `inference.answers.Answers`.
    """

    patch_size: Triple
    overlap: float = 0.5
    gaussian: bool = True
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    mirror_order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Slab:
    """Finished logits of consecutive planes of a volume.

    Attributes:
        axis: the volume's axis that the planes are counted along.
        start: number of the first plane.
        planes: `(n, K, A, B)` float32 on the CPU, C-ordered; A and B are the two other axes, in their order.
    """

    axis: int
    start: int
    planes: Tensor

    @property
    def stop(self) -> int:
        """Number of the plane behind the last one."""
        return self.start + len(self.planes)


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
    heard: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Slab]:
    """Logits of a whole volume, averaged over windows, mirrored copies and networks, plane after plane.

    Args:
        networks: each maps `(B, C, *patch_size)` to `(B, K, *patch_size)`; in evaluation mode, on `device`.
        image: `(C, X, Y, Z)` float32 on the CPU, of any shape: smaller than a window is padded with zeros
            around.
        windows: see `Windows`.
        device: where the networks are. The sum is kept there while it fits, else on the CPU.
        precision: of the networks' products, as in `runs.device`.
        layout: memory format of the networks' input.
        axis: the slabs' axis; None: see `slab_axis`.
        max_ram: bytes that this process may take; None: no bound.
        heard: called with (windows done, windows in all).
        say: hears what was given up for lack of memory.

    Yields:
        Slabs without gaps, in order; together they are the volume.

    Raises:
        CaseError: a network answers NaN or Inf, or the sum of the windows does not fit into `max_ram`.
        RunError: the device has not the memory for a single window.

    Source:
        Isensee et al. 2021 (nnU-Net): overlap one half, Gaussian of sigma = patch / 8. Departures: the sum of
        weights is a product of three vectors; nothing is rounded to half precision; a window whose voxels
        are all alike, as outside the body, is not computed again.
    """
    padded, begin = pad_around(image, windows.patch_size)
    axis = slab_axis(padded.shape[1:], windows.patch_size) if axis is None else axis
    starts = [
        window_positions(size, patch, windows.overlap)
        for size, patch in zip(padded.shape[1:], windows.patch_size, strict=True)
    ]
    total = _Sum(windows, padded.shape[1:], starts, axis, say, max_ram)
    answers = Answers(
        networks,
        windows.mirror_axes,
        windows.batch_size,
        device,
        precision,
        layout,
        say,
        make_room=total.move_to_cpu,
        mirror_order=windows.mirror_order,
    )
    done, count = 0, math.prod(map(len, starts))
    for first_plane in starts[axis]:
        for slab in total.planes_before(first_plane):
            yield from _without_padding(slab, begin, image.shape[1:])
        row = list(itertools.product(*([first_plane] if a == axis else s for a, s in enumerate(starts))))
        while row:
            corners, row = row[: answers.batch_size], row[answers.batch_size :]
            patches = [
                padded[
                    (slice(None), *(slice(c, c + p) for c, p in zip(corner, windows.patch_size, strict=True)))
                ]
                for corner in corners
            ]
            for corner, logits in zip(corners, answers(patches), strict=True):
                total.add(corner, logits)
            done += len(corners)
            heard(done, count)
    for slab in total.planes_before(padded.shape[1 + axis]):
        yield from _without_padding(slab, begin, image.shape[1:])


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
    """`window_slabs` put together: `(K, X, Y, Z)` float32 on the CPU. Takes K volumes of memory."""
    slabs = window_slabs(
        networks, image, windows, device=device, precision=precision, layout=layout, axis=0, heard=heard
    )
    return torch.cat([slab.planes for slab in slabs]).movedim(0, 1)


class _Sum:
    """The weighted sum of the windows over one row of them, `(depth, K, A, B)`, one window thick.

    Args:
        windows: their size and weights.
        shape: `(X, Y, Z)` of the padded volume.
        starts: first voxels of the windows along each axis.
        axis: of the slabs.
        say: hears that the device has no room for it.
        max_ram: bytes that this process may take, or None.
    """

    def __init__(
        self,
        windows: Windows,
        shape: Sequence[int],
        starts: Sequence[Sequence[int]],
        axis: int,
        say: Callable[[str], None],
        max_ram: int | None = None,
    ) -> None:
        self._max_ram = max_ram
        self._axis, self._depth = axis, windows.patch_size[axis]
        self._others = [a for a in range(3) if a != axis]
        self._plane_shape = [shape[a] for a in self._others]
        self._patch = windows.patch_size
        self._say = say
        profiles = [gaussian_profile(n) if windows.gaussian else torch.ones(n) for n in windows.patch_size]
        weight = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
        self._weight = weight.movedim(axis, 0)[:, None]
        covered = [_coverage(*each) for each in zip(shape, profiles, starts, strict=True)]
        a, b = self._others
        self._plane_scale = 1 / (covered[a][:, None] * covered[b])
        self._depth_scale = 1 / covered[axis]
        self._first = 0
        self._total: Tensor | None = None

    def add(self, corner: Sequence[int], logits: Tensor) -> None:
        """Add a window's `(K, *patch_size)` logits; its planes begin at `_first`."""
        if self._total is None:
            self._total = self._zeros(len(logits), logits.device)
        box = tuple(slice(corner[a], corner[a] + self._patch[a]) for a in self._others)
        planes = logits.movedim(1 + self._axis, 0).to(self._total.device)
        self._total[(slice(None), slice(None), *box)].addcmul_(planes, self._weight)

    def move_to_cpu(self) -> bool:
        """Give the device's memory back; whether there was any to give."""
        if self._total is None or self._total.device.type == "cpu":
            return False
        self._check_ram(4 * self._total.numel(), len(self._total[0]))
        self._total, self._weight = self._total.cpu(), self._weight.cpu()
        return True

    def planes_before(self, stop: int) -> Iterator[Slab]:
        """Give the planes before `stop`, which are finished, and make room for the next row of windows."""
        total = self._total
        if total is None:
            return
        count = stop - self._first
        plane_bytes = 4 * total[0].numel()
        piece = max(1, SLAB_BYTES // plane_bytes)
        for start in range(0, count, piece):
            these = slice(start, min(start + piece, count))
            scale = self._depth_scale[self._first :][these, None, None] * self._plane_scale
            planes = (total[these] * scale[:, None].to(total.device)).cpu()
            # A sum is finite only if all of it is, or if numbers above 1e30 cancel.
            if not bool(torch.isfinite(planes.sum())) and not bool(torch.isfinite(planes).all()):
                raise CaseError("the network answers NaN or Inf; try --precision fp32")
            yield Slab(self._axis, self._first + start, planes)
        kept = self._depth - count
        for plane in range(kept):
            total[plane] = total[plane + count]
        total[kept:] = 0
        self._first = stop

    def _zeros(self, outputs: int, device: torch.device) -> Tensor:
        shape = (self._depth, outputs, *self._plane_shape)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            needed = 4 * math.prod(shape)
            # The networks' activations of the first window are in torch's own cache already, which
            # `mem_get_info` counts as taken.
            if needed > free // 2:
                self._say(
                    f"the sum of the windows ({needed >> 20} MB) is kept on the CPU, {free >> 20} MB are free"
                )
                device = torch.device("cpu")
        if device.type == "cpu":
            self._check_ram(4 * math.prod(shape), outputs)
        self._weight = self._weight.to(device)
        return torch.zeros(shape, device=device)

    def _check_ram(self, needed: int, outputs: int) -> None:
        """Refuse a sum that does not fit beside what there is already and the slabs on their way.

        Raises:
            CaseError: it does not.
        """
        if self._max_ram is None:
            return
        plane = needed // self._depth
        window = 4 * outputs * math.prod(self._patch)
        total = resident_bytes() + needed + window + _SLABS_AT_ONCE * max(SLAB_BYTES, plane)
        if total > self._max_ram:
            raise CaseError(
                f"{outputs} outputs of this volume need {total / 2**30:.1f} GiB, --max-ram allows "
                f"{self._max_ram / 2**30:.1f}; allow more, or cut the image"
            )


def _coverage(size: int, profile: Tensor, starts: Sequence[int]) -> Tensor:
    """Sum of the windows' weights along one axis."""
    covered = torch.zeros(size)
    for start in starts:
        covered[start : start + len(profile)] += profile
    return covered


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
    """The axis along which the sum takes least memory; the first, which is quickest, if it takes little more
    and memory is not bounded (`thrifty`).

    >>> slab_axis((140, 170, 150), (128, 128, 128)), slab_axis((270, 270, 600), (96, 96, 96))
    (0, 2)
    """
    taken = [patch / size for patch, size in zip(patch_size, shape, strict=True)]
    best = taken.index(min(taken))
    return best if thrifty or taken[best] < 0.6 * taken[0] else 0


def resident_bytes() -> int:
    """Memory of this process as the system counts it; its peak so far where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


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
