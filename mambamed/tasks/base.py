"""The interface of a task, and the table of the tasks.

A task stands between numbers and meaning: how a reference becomes a target, how far logits are from it,
and what an answer is.
"""

from __future__ import annotations

import importlib
from typing import Protocol

import numpy as np
from torch import Tensor

from mambamed.cases import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe

TASKS = {"segmentation": "mambamed.tasks.segmentation:Segmentation"}


class Task(Protocol):
    """What training and prediction ask of a task.

    Attributes:
        outputs: K, channels of the network's output.
        names: what is scored, in the order of `score`'s last axis.
    """

    outputs: int
    names: tuple[str, ...]

    def encode(self, labels: Tensor) -> Tensor:
        """References of a batch -> the target that `loss` and `score` compare with."""
        ...

    def loss(self, outputs: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Scalar loss in float32 of the network's output: one tensor, or one a depth, the finest first."""
        ...

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, len(names), 3)` counts of which `summarize` makes the score of many batches."""
        ...

    def summarize(self, counts: Tensor) -> dict[str, float]:
        """Name -> score from counts summed over patches; 1 is best, NaN where nothing was to be found."""
        ...

    def decode(self, logits: np.ndarray | Tensor) -> np.ndarray:
        """One case's logits -> its answer."""
        ...


def task_for(recipe: Recipe, manifest: DatasetManifest) -> Task:
    """The task of a recipe, for the labels of a dataset.

    Raises:
        RecipeError: this mambamed has no such task.
        DatasetError: the dataset lacks what the task asks for.
    """
    if recipe.task not in TASKS:
        raise RecipeError(
            f"recipe {recipe.name}: task {recipe.task}: not in this mambamed; it has {', '.join(TASKS)}"
        )
    module, _, name = TASKS[recipe.task].partition(":")
    return getattr(importlib.import_module(module), name)(recipe, manifest)
