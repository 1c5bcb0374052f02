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
    random_spatial,
    source_box,
)
from mambamed.batches.sampler import PatchRequest, PatchSource, Triple, random_stream
from mambamed.preparation.pool import cores
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


class PatchReader:
    """Reads one patch, and no more than the box that it needs, and augments it.

    `augment` None: no augmentation. `spacing_mm` is that of the prepared grid, for rotations. `encode` makes
    the targets of a batch, and checks its labels; None: targets are the references of the cases.
    """

    def __init__(
        self,
        cases: Mapping[str, PatchCase],
        patch_size: Triple,
        augment: Augment | None,
        spacing_mm: tuple[float, ...],
        encode: Encode | None = None,
    ) -> None:
        self._cases, self._patch_size = cases, patch_size
        self._augment, self._spacing, self._encode = augment, spacing_mm, encode

    def read(self, request: PatchRequest) -> tuple[np.ndarray, np.ndarray]:
        """`(C, *patch_size)` float32, and the reference of one patch."""
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
        image = as_float32(case.image(box))
        label = case.label(box)
        if label is None:
            label = np.zeros(image.shape[1:], np.uint8)
        else:
            kind = label.dtype if label.dtype in (np.uint8, np.int16) else np.int16
            label = np.require(label, kind, ["C", "W"])  # the kernels accept no read-only arrays
        patch, label = apply_spatial(image, label, low, spatial, offset, self._patch_size)
        place = functools.partial(spatial.place_of, offset=offset)
        reference = case.reference(label, place, spatial.across_x)
        if self._augment is not None:
            patch = change_intensities(patch, self._augment, random)
        return with_covariates(patch, case.covariates), np.asarray(reference)

    def batch(self, requests: Sequence[PatchRequest]) -> Batch:
        """Read and stack several patches."""
        patches = [self.read(request) for request in requests]
        target = torch.from_numpy(np.stack([reference for _, reference in patches]))
        if self._encode is not None:
            target = self._encode(target, self._patch_size)
            if target.dim() == 4:  # of voxels: a quarter of the memory
                target = torch.from_numpy(target.numpy().astype(np.int16))
        return Batch(
            torch.from_numpy(np.stack([image for image, _ in patches])),
            target,
            tuple(request.case_id for request in requests),
        )


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
) -> Generator[Batch, None, None]:
    """The batches of steps `first_step <= k < last_step` in order, read ahead by threads.

    At most `threads + 2` batches are in memory, page-locked if `pin`. An error is raised when its batch is
    due.
    """
    steps = iter(range(first_step, last_step))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    waiting: deque[Future[Batch]] = deque()

    def make(step: int) -> Batch:
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
