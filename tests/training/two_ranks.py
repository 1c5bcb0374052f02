"""Trainings that `test_ranks` starts in two processes: `two_ranks.py PREPARED FOLDER`, under torchrun."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from mambamed.recipe import Recipe
from mambamed.training import train
from mambamed.training.ranks import leave_ranks


def recipe(batch_size: int, **training: Any) -> Recipe:
    """Of a network with instance norms, as two halves of a batch have other batch statistics than the whole.

    SGD, because Adam magnifies the rounding of a gradient that is 0 but for rounding.
    """
    settings = {
        "epochs": 2,
        "steps_per_epoch": 4,
        "batch_size": batch_size,
        "patch_size": [16, 16, 16],
        "precision": "fp32",
        "optimizer": {"name": "sgd", "lr": 0.01},
        "validation_patches": 3,
        "foreground": 0.5,
        **training,
    }
    return Recipe.model_validate(
        {
            "name": "small",
            "network": {"name": "nnunet", "channels": 4, "stages": 3},
            "training": settings,
            "inference": {"tta": "none"},
        }
    )


# Folder -> what a training of two processes has in addition; see `test_ranks`.
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    # Half of the patches at once, twice; a head of weight 0 has parameters without gradient; EMA. Two steps,
    # because differences of rounding grow with each.
    "accumulated": {"accumulate": 2, "steps_per_epoch": 1, "loss": {"depth_weights": [1.0, 0.0]}, "ema": 0.9},
}


def main(prepared: Path, root: Path) -> None:
    """Train all, then continue a training of one process, and stop another one."""
    torch.backends.mkldnn.enabled = False
    alive: list[weakref.ref] = []
    init = DistributedDataParallel.__init__

    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        assert not options.get("find_unused_parameters")
        init(self, *arguments, **options)
        alive.append(weakref.ref(self))

    DistributedDataParallel.__init__ = noted  # type: ignore[method-assign]
    for name, training in TRAININGS.items():
        train(recipe(1, **training), prepared=prepared, output=root / name, device="cpu")
    train(recipe(1), prepared=prepared, output=root / "resumed", device="cpu", resume=True)
    summary = train(
        recipe(1, epochs=9), prepared=prepared, output=root / "stopped", device="cpu", resume=True
    )
    assert summary.folds[0].stopped
    gc.collect()
    assert len(alive) == len(TRAININGS) + 2 and not any(each() for each in alive)  # before the group ends
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
