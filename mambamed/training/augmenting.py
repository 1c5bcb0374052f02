"""`training.augment_on`: whether patches are augmented by the CPU or by the GPU of the network."""

from __future__ import annotations

import torch

from mambamed.cores import cores
from mambamed.errors import RecipeError

# docs/benchmarks.md: a core augments 4 x 128^3 voxels in 0.13 s, and a GPU takes two such patches in 0.03 s.
_ENOUGH_CORES = 10


def choose_augment(
    wanted: str, device: torch.device, processes: int = 1, known: str | None = None
) -> tuple[bool, str]:
    """Whether the device augments, and the reason.

    Args:
        wanted: the recipe's "auto", "cpu" or "gpu".
        processes: number of training processes on this machine.
        known: the choice of the fold's first session, which is kept.

    Raises:
        RecipeError: the recipe wants a GPU, and the device is none of CUDA.

    >>> choose_augment("auto", torch.device("cpu"))
    (False, 'augmentation cpu: the network is computed there')
    """
    if wanted == "gpu" and device.type != "cuda":
        raise RecipeError(f"training.augment_on: gpu: the device is {device}. Set it to auto or cpu.")
    if device.type == "cpu":
        return False, "augmentation cpu: the network is computed there"
    if device.type != "cuda":
        return False, f"augmentation cpu: not supported on {device.type}"
    if wanted != "auto":
        return wanted == "gpu", f"augmentation {wanted}: the recipe says so"
    if known is not None:
        return known == "gpu", f"augmentation {known}: as in the first session of this fold"
    own = cores() // processes
    if own < _ENOUGH_CORES:
        return True, f"augmentation gpu: {own} cores for this GPU, less than {_ENOUGH_CORES}"
    return False, f"augmentation cpu: {own} cores for this GPU, {_ENOUGH_CORES} are enough"
