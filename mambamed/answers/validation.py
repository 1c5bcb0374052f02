"""Validation of whole cases: what differs between the tasks, and the table of the classes that know it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from mambamed.evaluation.result import Evaluation
from mambamed.preparation.store import PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.runs.folder import Run
from mambamed.runs.workplace import Workplace
from mambamed.volumes.sliding_window import Windows

# Task -> class of its validation.
VALIDATIONS = {
    "segmentation": "mambamed.answers.validate_masks:MaskValidation",
    "landmarks": "mambamed.answers.validate_landmarks:LandmarkValidation",
    "classification": "mambamed.answers.validate_classes:ClassValidation",
}


@dataclass(frozen=True)
class Network:
    """A trained network and how it is applied to a case."""

    module: nn.Module
    windows: Windows
    place: Workplace


@dataclass(frozen=True)
class Scored:
    """The evaluation of a fold.

    Attributes:
        evaluation: all metrics; its files are in the fold's folder.
        scores: name -> mean of the task's main metric.
        notes: further lines for the log.
    """

    evaluation: Evaluation
    scores: dict[str, float]
    notes: tuple[str, ...] = ()


class Validation(Protocol):
    """How the validation cases of one fold are predicted and scored.

    Attributes:
        cases_at_once: number of cases that `predict` takes.
    """

    cases_at_once: int

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[Any]:
        """Predict some cases; what is returned goes to `score` of the first process, pickled if need be."""
        ...

    def score(self, case_ids: Sequence[str], predicted: Sequence[Any], progress: Progress) -> Scored:
        """Choose what is chosen on validation cases, write the predictions, and evaluate them.

        Args:
            case_ids: all validation cases of the fold.
            predicted: what `predict` returned for them, in this order.
            progress: optional callback that receives progress updates.
        """
        ...


def validation_of(run: Run, fold: int, dataset: PreparedDataset) -> Validation:
    """The validation of a run's task."""
    module, _, name = VALIDATIONS[run.recipe.task].partition(":")
    return getattr(importlib.import_module(module), name)(run, fold, dataset)
