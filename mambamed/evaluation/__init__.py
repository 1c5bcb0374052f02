"""Evaluation of predictions against references: one module with a `SCORER` per task, see `scorer.Scorer`.

For masks, `pairing` matches predictions and references, `scoring` scores one case, `summary` computes means,
and `tables` and `output` present them. `compare` tests whether models differ.
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

# The first that recognizes the predictions is used; the last one accepts all.
SCORERS = {
    "classification": "mambamed.evaluation.classification",
    "landmarks": "mambamed.evaluation.points",
    "segmentation": "mambamed.evaluation.masks",
}


def evaluate(predictions: Path, references: Path, options: EvaluateOptions) -> Evaluation:
    """Evaluate predictions of any task, which is recognized by their files.

    Raises:
        RecipeError: an option that does not apply to these predictions.
        DatasetError: nothing to compare.
    """
    scorers = (scorer_of(task) for task in SCORERS)
    scorer = next(scorer for scorer in scorers if scorer.recognizes(predictions))
    scorer.check(options, predictions)
    return scorer.evaluate(predictions, references, options)


def read_evaluation(folder: Path, name: str) -> Evaluated:
    """Read back the folder that `evaluate -o` wrote; `name` is its name in tables.

    Raises:
        DatasetError: no such folder, or a file with faults.
    """
    summary = read_summary(folder / "summary.json")
    return scorer_of(summary.task).read_back(folder, name, summary)


def scorer_of(task: str) -> Scorer:
    """The scorer of a task."""
    return importlib.import_module(SCORERS[task]).SCORER
