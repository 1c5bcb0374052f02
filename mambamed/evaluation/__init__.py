"""Predictions and references -> tables. One file per task, found through `SCORERS`.

`masks`, `points` and `classification` evaluate one kind of prediction each: a module with a `SCORER`, see
`scorer.Scorer`. For masks, `pairing` matches predictions and references, `scoring` scores one case,
`summary` takes the means, `tables` and `output` present them. `compare` tests whether models differ.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mambamed.documents.evaluation import read_summary

if TYPE_CHECKING:
    from mambamed.evaluation.options import EvaluateOptions
    from mambamed.evaluation.read_back import Evaluated
    from mambamed.evaluation.result import Evaluation
    from mambamed.evaluation.scorer import Scorer

# In the order in which they are asked whether they recognize the predictions; the last takes all others.
SCORERS = {
    "classification": "mambamed.evaluation.classification",
    "landmarks": "mambamed.evaluation.points",
    "segmentation": "mambamed.evaluation.masks",
}


def evaluate(predictions: Path, references: Path, options: EvaluateOptions) -> Evaluation:
    """Compare predictions of any task with references.

    Args:
        predictions: folder of masks or point files, or tables; the task is recognized by the files.
        references: of the same cases.
        options: what to measure and to write.

    Raises:
        RecipeError: an option that does not apply to these predictions.
        DatasetError: nothing to compare.
    """
    scorers = (scorer_of(task) for task in SCORERS)
    scorer = next(scorer for scorer in scorers if scorer.recognizes(predictions))
    scorer.check(options, predictions)
    return scorer.evaluate(predictions, references, options)


def read_evaluation(folder: Path, name: str) -> Evaluated:
    """Read an evaluation back from the folder that `evaluate -o` wrote.

    Args:
        folder: with `cases.csv` and `summary.json`.
        name: of the evaluation, for people.

    Raises:
        DatasetError: no such folder, or a file with faults.
    """
    summary = read_summary(folder / "summary.json")
    return scorer_of(summary.task).read_back(folder, name, summary)


def scorer_of(task: str) -> Scorer:
    """The scorer of a task."""
    return importlib.import_module(SCORERS[task]).SCORER
