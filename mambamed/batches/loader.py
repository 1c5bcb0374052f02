"""Patches read, augmented and stacked by threads, a limited number of batches ahead.

Threads, not processes: the expensive parts release the GIL, and nothing is copied between processes.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Mapping, Sequence
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
from mambamed.recipe import Augment
from mambamed.tasks.cases import PatchCase
from mambamed.tasks.covariates import with_covariates


@dataclass(frozen=True)
class Batch:
    """Input of one training step."""

    image: Tensor  # `(B, C, X, Y, Z)` float32; covariates of classes are constant channels after the image's
    # `(B, X, Y, Z)` label values; or `(B, K, 3)` float32 positions of the landmarks in the patch, in voxels,
    # infinite for those that the case lacks, NaN for those not annotated; or `(B,)` int64 class indices
    reference: Tensor
    case_ids: tuple[str, ...]  # of each patch, for messages


class PatchReader:
    """Reads one patch, and no more than the box that it needs, and augments it.

    `augment` None: no augmentation. `spacing_mm` is that of the prepared grid, for rotations.
    """

    def __init__(
        self,
        cases: Mapping[str, PatchCase],
        patch_size: Triple,
        augment: Augment | None,
        spacing_mm: tuple[float, ...],
    ) -> None:
        self._cases, self._patch_size = cases, patch_size
        self._augment, self._spacing = augment, spacing_mm

    def read(self, request: PatchRequest) -> tuple[np.ndarray, np.ndarray]:
        """`(C, *patch_size)` float32, and the `Batch.reference` of one patch."""
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
        return Batch(
            torch.from_numpy(np.stack([image for image, _ in patches])),
            torch.from_numpy(np.stack([reference for _, reference in patches])),
            tuple(request.case_id for request in requests),
        )


def batches_ahead(
    sampler: PatchSource, reader: PatchReader, first_step: int, last_step: int, threads: int = 2
) -> Generator[Batch, None, None]:
    """The batches of steps `first_step <= k < last_step` in order, read ahead by threads.

    At most `threads + 2` batches are in memory. An error is raised when its batch is due.
    """
    steps = iter(range(first_step, last_step))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    waiting: deque[Future[Batch]] = deque()

    def make(step: int) -> Batch:
        return reader.batch(sampler.requests(step))

    try:
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
