"""The table of the answers, one per task, and the check that a model belongs to a command."""

from __future__ import annotations

import importlib
from typing import Any

from mambamed.errors import ModelError
from mambamed.jobs.answer import Answer
from mambamed.volumes.ensemble import Ensemble

# Task -> class of its answer.
ANSWERS = {
    "segmentation": "mambamed.answers.segmentation:SegmentationAnswer",
    "landmarks": "mambamed.answers.landmarks:LandmarksAnswer",
    "classification": "mambamed.answers.classification:ClassificationAnswer",
}


def answer_class(task: str) -> Any:
    """The class of a task's answer.

    Raises:
        ModelError: there is none.
    """
    if task not in ANSWERS:
        raise ModelError(f"task {task}: unknown; expected one of {', '.join(ANSWERS)}.")
    module, _, name = ANSWERS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def check_task(ensemble: Ensemble, answer: type[Answer]) -> None:
    """Reject models of another task than a command's.

    Raises:
        ModelError: they are; the line names the command to use.
    """
    task = ensemble.run.recipe.task
    if task in ANSWERS and answer_class(task) is answer:
        return
    remedy = f"Use 'mambamed {answer_class(task).verb}'." if task in ANSWERS else "Update mambamed."
    raise ModelError(f"{ensemble.run.root}: is a {task} model, which {answer.verb} cannot run. {remedy}")
