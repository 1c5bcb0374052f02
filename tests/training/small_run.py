"""The recipe of the small trainings of these tests."""

from __future__ import annotations

from typing import Any

from mambamed.recipe import Recipe

CONVOLUTIONS = {"name": "nnunet", "channels": 4, "stages": 2}


def small_recipe(network: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """A few steps of a small network on patches of 16 voxels."""
    settings = {
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "ema": 0.5,
        "validation_patches": 2,
        **training,
    }
    network = network or {"name": "nnmamba", "channels": 4, "head": "wide"}
    return Recipe.model_validate(
        {"name": "small", "network": network, "training": settings, "inference": {"tta": "none"}}
    )
