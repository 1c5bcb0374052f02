"""Checks of the size that a header claims, before memory is taken for the voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mambamed.errors import CaseError
from mambamed.memory import NEGLIGIBLE_BYTES, free_memory_bytes, gib

_LARGEST_RATIO = 1100  # deflate compresses at most 1032 : 1


def check_claim(
    path: Path, shape: Sequence[int], dtype: np.dtype, file_bytes: int, compressed: bool, max_voxels: int
) -> None:
    """Reject a header that claims more voxels than its file can hold, or than `max_voxels`.

    Raises:
        CaseError: it does.
    """
    voxels = math.prod(shape)
    claimed = voxels * dtype.itemsize
    size = " x ".join(map(str, shape))
    if claimed > file_bytes * (_LARGEST_RATIO if compressed else 1):
        fact = "" if compressed else "truncated: "
        raise CaseError(
            f"{path}: {fact}its header claims a size of {size} voxels, {claimed} bytes, more than a file of "
            f"{file_bytes} bytes can hold. Copy it again."
        )
    if voxels > max_voxels:
        raise CaseError(
            f"{path}: {size} are {voxels} voxels ({gib(claimed)}), more than the limit of {max_voxels}. "
            "Resample or crop the image."
        )


def check_memory(path: Path, shape: Sequence[int], dtype: np.dtype) -> None:
    """Reject an image whose voxels the free memory does not hold.

    Raises:
        CaseError: it does not.
    """
    needed = math.prod(shape) * dtype.itemsize
    free = free_memory_bytes() if needed > NEGLIGIBLE_BYTES else None
    if free is not None and needed > free:
        raise CaseError(
            f"{path}: {' x '.join(map(str, shape))} voxels of {dtype} need {gib(needed)} of memory, and "
            f"{gib(free)} are free. Free memory, or crop the image."
        )
