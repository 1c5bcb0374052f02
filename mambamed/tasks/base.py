"""The interface of a task.

A task stands between numbers and meaning: how a reference becomes a target, how far logits are from it,
and what an answer is.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.preparation.store import PreparedCase
from mambamed.recipe import Recipe
from mambamed.recipe.tasks import TASKS
from mambamed.tasks.cases import PatchCase


class Task(Protocol):
    """What training and prediction ask of a task.

    Attributes:
        outputs: K, channels of the network's output.
        names: what is scored, in the order of `score`'s second axis.
        verb: the command that runs a model of the task, e.g. "predict".
        output: an example of that command's -o; `{name}` stands for the run's name.
        score_name: metric of validation patches, as in the columns of log.csv, e.g. "dice".
        higher_is_better: whether a larger value of it is better.
        main_metric: metric of whole validation cases that `train` reports, as in summary.json.
        score_title: name of the main metric for people, e.g. "Dice".
        mirror_order: which landmark each one is in a mirrored image (left and right change places); None
            where nothing of the kind is to be done.
        averages_mirror_images: whether prediction may average the outputs for mirrored images.
        centered: whether validation after an epoch scores one centered patch per case, instead of a number of
            random patches.
    """

    outputs: int
    names: tuple[str, ...]
    verb: str
    output: str
    score_name: str
    higher_is_better: bool
    main_metric: str
    score_title: str
    mirror_order: tuple[int, ...] | None
    averages_mirror_images: bool
    centered: bool

    def case(self, prepared: PreparedCase) -> PatchCase | None:
        """A prepared case with the reference that the task learns; None if the task does not use the case."""
        ...

    def begin(self, training: Sequence[PatchCase], validation: Sequence[PatchCase]) -> None:
        """Check the cases of a fold, and set what depends on them, before training begins."""
        ...

    def count(self, cases: Sequence[PatchCase], left_out: int) -> str:
        """A line for the log that describes the cases of a fold; empty if there is nothing to say.

        Args:
            cases: cases that `case` returned.
            left_out: number of cases for which it returned None.
        """
        ...

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """References of a batch -> the target that `loss` and `score` compare with.

        Args:
            reference: as `mambamed.batches.loader.Batch` describes it.
            shape: of a patch, voxels (x, y, z).
        """
        ...

    def loss(self, outputs: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Scalar loss in float32 of the network's output: one tensor, or one a depth, the finest first."""
        ...

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, len(names), n)` numbers of which `summarize` makes the score of many patches."""
        ...

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> score from the `(patches, len(names), n)` numbers of all; NaN where nothing was there."""
        ...

    def decode(self, logits: Any) -> Any:
        """One case's logits -> its answer."""
        ...


def task_class(task: str) -> Any:
    """The class of a task.

    Raises:
        RecipeError: this mambamed has no such task.
    """
    if task not in TASKS:
        raise RecipeError(f"task {task}: unknown task. Use one of {', '.join(TASKS)}.")
    module, _, name = TASKS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def task_for(
    recipe: Recipe, manifest: DatasetManifest, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Task:
    """The task of a recipe, for the labels, landmarks or classes of a dataset.

    Args:
        spacing_mm: of the prepared grid; tasks that measure in mm need it.

    Raises:
        RecipeError: this mambamed has no such task.
        DatasetError: the dataset lacks what the task asks for.
    """
    return task_class(recipe.task)(recipe, manifest, spacing_mm)
