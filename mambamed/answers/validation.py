"""Validation of whole cases: the interface, and the table of its implementations."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from mambamed.documents.splits import FoldName
from mambamed.evaluation.result import Evaluation
from mambamed.evaluation.scoring import Together
from mambamed.preparation.store import PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
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
    """The evaluation of a fold, name -> mean of the main metric, and notes for the log."""

    evaluation: Evaluation
    scores: dict[str, float]
    notes: tuple[str, ...] = ()


class Crew(Together, Protocol):
    """Processes that validate together."""

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        ...

    @property
    def beside(self) -> int:
        """Number of the processes on this machine."""
        ...


class Validation(Protocol):
    """Predicts and scores the validation cases of one fold; `predict` takes `cases_at_once` cases."""

    cases_at_once: int

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[Any]:
        """Predict some cases; the result is sent to `score` of every process, pickled if needed."""
        ...

    def score(
        self, case_ids: Sequence[str], predicted: Sequence[Any], progress: Progress, crew: Crew | None = None
    ) -> Scored | None:
        """Choose thresholds etc., write the predictions, and evaluate them.

        Args:
            case_ids: all validation cases of the fold.
            predicted: the results of `predict`, in the same order.
            crew: the processes that call this together; None is returned in all but the first one.
        """
        ...


def validation_of(run: Run, fold: FoldName, dataset: PreparedDataset) -> Validation:
    """The validation of a run's task."""
    module, _, name = VALIDATIONS[run.recipe.task].partition(":")
    return getattr(importlib.import_module(module), name)(run, fold, dataset)
