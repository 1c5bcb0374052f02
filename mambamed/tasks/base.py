"""The interface of a task: targets, losses, scores and decoding of the network's output."""

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
from mambamed.report.contact_sheet import Marks
from mambamed.tasks.cases import PatchCase


class Task(Protocol):
    """What training and prediction ask of a task; tasks inherit the defaults.

    Attributes:
        outputs: K, channels of the network's output.
        names: the structures that are scored, in the order of `score`'s second axis.
        verb: the command that runs a model of the task, e.g. "predict".
        output: an example of that command's -o; `{name}` stands for the run's name.
        score_name: metric of validation patches, as in the columns of log.csv, e.g. "dice".
        higher_is_better: whether a larger value of it is better.
        main_metric: metric of whole validation cases that `train` reports, as in summary.json.
        score_title: printed name of the main metric, e.g. "Dice".
        labels_voxels: whether the references are masks, with a label of each voxel in memory.
        mirror_order: index of the output that each one becomes in an image mirrored across x; None if none
            changes.
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
    labels_voxels: bool = False
    mirror_order: tuple[int, ...] | None = None
    averages_mirror_images: bool = True
    centered: bool = False

    def case(self, prepared: PreparedCase) -> PatchCase | None:
        """A prepared case with its reference; None if the task does not use the case."""
        ...

    def begin(self, training: Sequence[PatchCase], validation: Sequence[PatchCase]) -> None:
        """Check the cases of a fold, and prepare what depends on them, before training."""

    def count(self, cases: Sequence[PatchCase], left_out: int) -> str:
        """A line for the log about the cases of a fold (`left_out` others are not used); may be empty."""
        return ""

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """References of a batch (see `mambamed.batches.loader.Batch`) -> target of `loss` and `score`.

        Args:
            shape: of a patch, voxels (x, y, z).
        """
        ...

    def loss(self, outputs: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Scalar float32 loss of the network's output: one tensor, or one per depth, the finest first."""
        ...

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, len(names), n)` numbers from which `summarize` computes the scores."""
        ...

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> score, from `(patches, len(names), n)` numbers; NaN if it is undefined."""
        ...

    def decode(self, logits: Any) -> Any:
        """The result for one case's logits."""
        ...

    def marks(self, target: Tensor, logits: Tensor) -> tuple[Marks, Marks] | None:
        """Reference and prediction of one patch, for a picture; None if the reference shows nothing.

        Args:
            target: from `encode`, without its first axis.
            logits: of the patch.
        """
        return None


def task_class(task: str) -> Any:
    """The class of a task.

    Raises:
        RecipeError: unknown task.
    """
    if task not in TASKS:
        raise RecipeError(f"task {task}: unknown task. Use one of {', '.join(TASKS)}.")
    module, _, name = TASKS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def task_for(
    recipe: Recipe, manifest: DatasetManifest, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Task:
    """The task of a recipe, for the labels, landmarks or classes of a dataset.

    Raises:
        RecipeError: unknown task.
        DatasetError: the dataset lacks what the task needs.
    """
    return task_class(recipe.task)(recipe, manifest, spacing_mm)
