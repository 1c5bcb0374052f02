"""Patches read, augmented and stacked by threads, a limited number of batches ahead.

Threads, not processes: the expensive parts release the GIL, and nothing is copied between processes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mambamed.batches.augment import (
    Spatial,
    apply_spatial,
    as_float32,
    change_intensities,
    draw_changes,
    random_spatial,
    source_box,
)
from mambamed.batches.device_augment import PatchSources
from mambamed.batches.sampler import PatchRequest, PatchSource, Triple, random_stream
from mambamed.cores import cores
from mambamed.recipe import Augment
from mambamed.tasks.cases import PatchCase
from mambamed.tasks.covariates import with_covariates

_CPU_THREADS = 2  # if the network is computed on the CPU
_MOST_THREADS = 12  # more batches in memory gain nothing

# References of patches -> target of the loss, given the shape of a patch; see `tasks.base.Task.encode`.
Encode = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Batch:
    """Input of one training step."""

    image: Tensor  # `(B, C, X, Y, Z)` float32; covariates of classes are constant channels after the image's
    # What the reader's `encode` returns, one number per voxel as int16. Without `encode`: `(B, X, Y, Z)`
    # label values; or `(B, K, 3)` float32 positions of the landmarks in the patch, in voxels, infinite for
    # those that the case lacks, NaN for those not annotated; or `(B,)` int64 class indices.
    target: Tensor
    case_ids: tuple[str, ...]  # of each patch, for messages

    def on(self, device: torch.device, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Image and target on a device, whole numbers as int64; does not wait for copies of pinned memory."""
        image = self.image.to(device, memory_format=layout, non_blocking=True)
        target = self.target.to(device, non_blocking=True)
        return image, target if target.is_floating_point() else target.long()

    def pinned(self) -> Batch:
        """The batch in page-locked memory, which a CUDA device copies faster and without waiting."""
        return dataclasses.replace(self, image=self.image.pin_memory(), target=self.target.pin_memory())


@dataclass(frozen=True)
class BatchSources:
    """Input of one training step before a device makes its patches, with the interface of `Batch`."""

    patches: tuple[PatchSources, ...]
    target: Tensor | None  # if it is not one number per voxel
    patch_size: Triple
    case_ids: tuple[str, ...]

    def on(self, device: torch.device, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Same as `Batch.on`; the patches are augmented on the device."""
        made = [
            patch.moved(lambda tensor: tensor.to(device, non_blocking=True)).patch(self.patch_size)
            for patch in self.patches
        ]
        target = self.target
        if target is None:
            target = torch.stack([label for _, label in made if label is not None])
        return Batch(torch.stack([image for image, _ in made]), target, self.case_ids).on(device, layout)

    def pinned(self) -> BatchSources:
        """Same as `Batch.pinned`."""
        target = None if self.target is None else self.target.pin_memory()
        patches = tuple(patch.moved(lambda tensor: tensor.pin_memory()) for patch in self.patches)
        return dataclasses.replace(self, patches=patches, target=target)


AnyBatch = Batch | BatchSources


@dataclass(frozen=True)
class _Box:
    """The part of a case that a patch touches, from voxel `start` on; the others as in `PatchSources`."""

    case: PatchCase
    image: np.ndarray
    label: np.ndarray | None
    start: np.ndarray
    spatial: Spatial
    offset: np.ndarray
    random: np.random.Generator


class PatchReader:
    """Reads one patch, and no more than the box that it needs, and augments it.

    `augment` None: no augmentation. `spacing_mm` is that of the prepared grid, for rotations. `encode` makes
    the targets of a batch, and checks its labels; None: targets are the references of the cases. With
    `on_device`, patches are augmented by the device to which their batch is moved.
    """

    def __init__(
        self,
        cases: Mapping[str, PatchCase],
        patch_size: Triple,
        augment: Augment | None,
        spacing_mm: tuple[float, ...],
        encode: Encode | None = None,
        on_device: bool = False,
    ) -> None:
        self._cases, self._patch_size, self._on_device = cases, patch_size, on_device
        self._augment, self._spacing, self._encode = augment, spacing_mm, encode

    def read(self, request: PatchRequest) -> tuple[np.ndarray, np.ndarray]:
        """`(C, *patch_size)` float32, and the reference of one patch."""
        box = self._box(request)
        image, label = as_float32(box.image), box.label
        if label is None:
            label = np.zeros(image.shape[1:], np.uint8)
        patch, label = apply_spatial(image, label, box.start, box.spatial, box.offset, self._patch_size)
        reference = self._reference(box, label)
        if self._augment is not None:
            patch = change_intensities(patch, self._augment, box.random)
        return with_covariates(patch, box.case.covariates), reference

    def sources(self, request: PatchRequest) -> tuple[PatchSources, np.ndarray | None]:
        """What a device makes one patch from, and its reference if that is not one number per voxel."""
        box, reference, label = self._box(request), None, None
        if box.label is None:
            reference = self._reference(box, np.zeros(self._patch_size, np.uint8))
        else:  # labels are encoded before they move: a vote among corners is the same for both
            target = torch.from_numpy(self._reference(box, box.label)[None])
            if self._encode is not None:
                target = self._encode(target, self._patch_size)
            label = torch.from_numpy(target.numpy()[0].astype(np.int16))
        covariates = box.case.covariates
        shape = (len(box.image), *self._patch_size)
        changes = draw_changes(shape, self._augment, box.random) if self._augment else []
        image = torch.from_numpy(np.require(box.image, None, ["C", "W"]))
        drawn = [torch.from_numpy(c.drawn.view(np.int16)) for c in changes if c.drawn is not None]
        kept = (box.start, box.spatial, box.offset, tuple(changes), tuple(drawn), covariates)
        return PatchSources(image, label, *kept), reference

    def _box(self, request: PatchRequest) -> _Box:
        """The part of a case that a patch touches, and its mapping."""
        case = self._cases[request.case_id]
        random = random_stream(*request.key)
        spatial = Spatial(np.eye(3), ())
        if self._augment is not None:
            spatial = random_spatial(self._augment, self._spacing, random, self._patch_size)
        low, high, offset = source_box(spatial, request.start, self._patch_size)
        if spatial.mirrored is not None:  # no interpolation: exactly the patch
            low = np.asarray(request.start)
            high = low + self._patch_size
        shape = np.asarray(case.shape)
        low, high = np.clip(low, 0, shape), np.clip(high, 0, shape)
        box = (tuple(int(v) for v in low), tuple(int(v) for v in high))
        label = case.label(box)
        if label is not None:
            kind = label.dtype if label.dtype in (np.uint8, np.int16) else np.int16
            label = np.require(label, kind, ["C", "W"])  # the kernels accept no read-only arrays
        return _Box(case, case.image(box), label, low, spatial, offset, random)

    @staticmethod
    def _reference(box: _Box, label: np.ndarray) -> np.ndarray:
        place = functools.partial(box.spatial.place_of, offset=box.offset)
        return np.asarray(box.case.reference(label, place, box.spatial.across_x))

    def batch(self, requests: Sequence[PatchRequest]) -> AnyBatch:
        """Read several patches, and stack or, if a device makes them, collect them."""
        case_ids = tuple(request.case_id for request in requests)
        if self._on_device:
            found = [self.sources(request) for request in requests]
            others = [reference for _, reference in found if reference is not None]
            target = self._encoded(others) if others else None
            return BatchSources(tuple(each for each, _ in found), target, self._patch_size, case_ids)
        patches = [self.read(request) for request in requests]
        image = torch.from_numpy(np.stack([image for image, _ in patches]))
        return Batch(image, self._encoded([reference for _, reference in patches]), case_ids)

    def _encoded(self, references: Sequence[np.ndarray]) -> Tensor:
        target = torch.from_numpy(np.stack(references))
        if self._encode is not None:
            target = self._encode(target, self._patch_size)
            if target.dim() == 4:  # of voxels: a quarter of the memory
                target = torch.from_numpy(target.numpy().astype(np.int16))
        return target


def loader_threads(device: torch.device, processes: int) -> int:
    """Number of threads that read batches ahead, for one of several training processes on this machine.

    One thread per core that this process may use, except one core for the training loop. If the network is
    computed on the CPU, two threads suffice, and more would take its cores.

    >>> loader_threads(torch.device("cpu"), 1)
    2
    """
    if device.type == "cpu":
        return _CPU_THREADS
    return max(_CPU_THREADS, min(cores() // processes - 1, _MOST_THREADS))


def batches_ahead(
    sampler: PatchSource,
    reader: PatchReader,
    first_step: int,
    last_step: int,
    threads: int = _CPU_THREADS,
    pin: bool = False,
) -> Generator[AnyBatch, None, None]:
    """The batches of steps `first_step <= k < last_step` in order, read ahead by threads.

    At most `threads + 2` batches are in memory, page-locked if `pin`. An error is raised when its batch is
    due.
    """
    steps = iter(range(first_step, last_step))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    waiting: deque[Future[AnyBatch]] = deque()

    def make(step: int) -> AnyBatch:
        batch = reader.batch(sampler.requests(step))
        return batch.pinned() if pin else batch

    try:
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
