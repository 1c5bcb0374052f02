"""The weighted sum of windows along one axis of a volume, one window thick, and its finished slabs."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambamed.errors import CaseError
from mambamed.memory import check_ram, is_out_of_memory
from mambamed.volumes.sum_kernels import Profiles, add_window, take_planes

SLAB_BYTES = 2**24  # largest size of a slab, unless a single plane is larger
_PLANES = 32  # of a window that are converted to float32 at once
_SLABS_AT_ONCE = 6  # being made, waiting, being interpolated to native voxels


@dataclass(frozen=True)
class Slab:
    """Finished logits of consecutive planes of a volume."""

    axis: int  # the volume's axis along which the planes are counted
    start: int  # number of the first plane
    planes: (
        Tensor  # `(n, K, A, B)` float32, C-ordered, on the CPU unless `resident`; A and B: the two other axes
    )

    @property
    def stop(self) -> int:
        """Number of the plane after the last one."""
        return self.start + len(self.planes)


class WindowSum:
    """The weighted sum of one row of windows, `(depth, K, A, B)`, one window thick.

    It is kept on the device of the logits if it fits there, else on the CPU.

    Args:
        gaussian: weight a window's center more than its border.
        shape: `(X, Y, Z)` of the padded volume.
        starts: first voxels of the windows along each axis.
        axis: of the slabs.
        on_message: callback that receives a line if the device has too little memory.
        max_ram: bytes that this process may use, or None.
        like_nnunet: see `gaussian_profile`.
        resident: whether slabs stay on the device, if the sum is there.
    """

    def __init__(
        self,
        patch_size: tuple[int, int, int],
        gaussian: bool,
        shape: Sequence[int],
        starts: Sequence[Sequence[int]],
        axis: int,
        *,
        on_message: Callable[[str], None],
        max_ram: int | None = None,
        like_nnunet: bool = False,
        resident: bool = False,
    ) -> None:
        self._resident = resident
        self._on_message, self._max_ram = on_message, max_ram
        self._axis, self._depth, self._patch = axis, patch_size[axis], patch_size
        self._others = [a for a in range(3) if a != axis]
        self._plane_shape = [shape[a] for a in self._others]
        profiles = [gaussian_profile(n, like_nnunet) if gaussian else torch.ones(n) for n in patch_size]
        covered = [_coverage(*each) for each in zip(shape, profiles, starts, strict=True)]
        order = (axis, *self._others)
        self._weights, self._scales = [profiles[n] for n in order], [1 / covered[n] for n in order]
        self._first = 0
        self._total: Tensor | None = None
        self._weight: Tensor | None = None  # of every voxel of a window, where a GPU adds

    def add(self, corner: Sequence[int], logits: Tensor) -> None:
        """Add a window's `(K, *patch_size)` float32 or, on a CPU, bfloat16 logits.

        Its planes begin where the sum does.
        """
        if self._total is None:
            self._total = self._zeros(len(logits), logits.device)
        row, column = (corner[n] for n in self._others)
        planes = logits.movedim(1 + self._axis, 0).to(self._total.device)
        along, across, inner = self._weights
        for kept, part in self._where(self._first, self._first + self._depth):
            if planes.device.type == "cpu":
                targets, news = self._total[kept].split(_PLANES), planes[part].split(_PLANES)
                for target, new, weights in zip(targets, news, along[part].split(_PLANES), strict=True):
                    factors = _arrays((weights, across, inner))
                    add_window(target.numpy(), (row, column), *_flat(new.float()), factors)
                continue
            if self._weight is None:
                self._weight = _product(self._weights).to(planes.device)
            a, b = planes.shape[2:]
            box = self._total[kept, :, row : row + a, column : column + b]
            box.addcmul_(planes[part], self._weight[part])

    def move_to_cpu(self) -> bool:
        """Free the device's memory; returns whether any was used."""
        if self._total is None or self._total.device.type == "cpu":
            return False
        self._check_ram(4 * self._total.numel(), len(self._total[0]))
        self._total, self._weight = self._total.cpu(), None
        return True

    def planes_before(self, stop: int) -> Iterator[Slab]:
        """Return the finished planes before `stop`, and clear them for the next row of windows.

        Raises CaseError if they contain NaN or Inf.
        """
        if self._total is None:
            return
        piece = max(1, SLAB_BYTES // (4 * self._total[0].numel()))
        for start in range(self._first, stop, piece):
            planes, check = self._taken(start, min(start + piece, stop))
            if not math.isfinite(check) and not bool(torch.isfinite(planes).all()):
                raise CaseError("the network answers NaN or Inf; try --precision fp32")
            yield Slab(self._axis, start, planes)
        self._first = stop

    def _where(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Location of planes of the volume in the sum, a ring: one or two parts, each with its share."""
        begin, count = start % self._depth, stop - start
        cut = min(count, self._depth - begin)
        yield slice(begin, begin + cut), slice(0, cut)
        if cut < count:
            yield slice(0, count - cut), slice(cut, count)

    def _taken(self, start: int, stop: int) -> tuple[Tensor, float]:
        """Planes divided by their weights, and a number that is finite if they are.

        They are set to zero in the sum, for later planes.
        """
        assert self._total is not None
        along, across, inner = self._scales
        along = along[start:stop]
        if self._total.device.type == "cpu":
            planes, check = self._total.new_empty((stop - start, *self._total.shape[1:])), 0.0
            for kept, part in self._where(start, stop):
                scales = _arrays((along[part], across, inner))
                check += take_planes(self._total[kept].numpy(), scales, planes[part].numpy())
            return planes, check
        scale = _product((along, across, inner))
        parts = [self._total[kept] for kept, _ in self._where(start, stop)]
        try:
            planes = torch.cat(parts) * scale.to(parts[0].device)
            planes = planes if self._resident else planes.cpu()
        except torch.OutOfMemoryError:
            planes = torch.cat([part.cpu() for part in parts]) * scale
        for part in parts:
            part.zero_()
        return planes, float(planes.sum())

    def _zeros(self, outputs: int, device: torch.device) -> Tensor:
        shape = (self._depth, outputs, *self._plane_shape)
        needed = 4 * math.prod(shape)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            # torch's cache already holds the networks' activations of the first window, which
            # `mem_get_info` counts as used.
            if needed <= free // 2:
                try:
                    return torch.zeros(shape, device=device)
                except torch.OutOfMemoryError:  # because of --max-vram, or other processes used it meanwhile
                    torch.cuda.empty_cache()
            self._on_message(
                f"{device}: the sum of the windows ({needed >> 20} MB) does not fit; it is kept on the CPU"
            )
            device = torch.device("cpu")
        if device.type == "cpu":
            self._check_ram(needed, outputs)
        try:
            return _mapped_zeros(shape) if device.type == "cpu" else torch.zeros(shape, device=device)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            raise CaseError(
                f"{outputs} outputs of this volume need {needed / 2**30:.1f} GiB, more than is free; "
                "cut the image"
            ) from error

    def _check_ram(self, needed: int, outputs: int) -> None:
        """Raise CaseError if the sum does not fit in addition to the slabs and the memory in use."""
        window = 4 * outputs * math.prod(self._patch)
        further = needed + window + _SLABS_AT_ONCE * max(SLAB_BYTES, needed // self._depth)
        check_ram(further, self._max_ram, f"{outputs} outputs of this volume need")


def _mapped_zeros(shape: tuple[int, ...]) -> Tensor:
    """Float32 zeros on the CPU in separate pages, if the system has them.

    Allocated by malloc they would fragment the memory that it keeps for the network.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return torch.zeros(shape)
    at_once = getattr(mmap, "MAP_POPULATE", 0)  # else each page is mapped twice, when read and when written
    pages = mmap.mmap(-1, 4 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | at_once)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def gaussian_profile(size: int, like_nnunet: bool = False) -> Tensor:
    """Weights along one axis: a Gaussian of sigma = size / 8 around the center.

    The border lies at four sigma: the product of three is 4e-11 in a corner, which float32 can represent.

    Args:
        like_nnunet: the center is voxel size // 2, half a voxel behind the middle of an even size.
    """
    offset = torch.arange(size, dtype=torch.float64) - (size // 2 if like_nnunet else (size - 1) / 2)
    return torch.exp(-0.5 * (offset / (size / 8)) ** 2).float()


def _coverage(size: int, profile: Tensor, starts: Sequence[int]) -> Tensor:
    """Sum of the windows' weights along one axis."""
    covered = torch.zeros(size)
    for start in starts:
        covered[start : start + len(profile)] += profile
    return covered


def _product(factors: Sequence[Tensor]) -> Tensor:
    """Product of the factors along the slabs' axis and the two others: `(n, 1, A, B)`."""
    along, across, inner = factors
    return along[:, None, None, None] * across[:, None] * inner


def _flat(planes: Tensor) -> tuple[NDArray[np.float32], tuple[int, int, int, int]]:
    """The numbers of a 4-D CPU tensor in their order in memory, and its strides."""
    step, channel, line, apart = planes.stride()
    length = 1 + sum((n - 1) * stride for n, stride in zip(planes.shape, planes.stride(), strict=True))
    return planes.as_strided((length,), (1,)).numpy(), (step, channel, line, apart)


def _arrays(factors: Sequence[Tensor]) -> Profiles:
    along, across, inner = (each.numpy() for each in factors)
    return along, across, inner
