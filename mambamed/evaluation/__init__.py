"""Evaluation of predictions against references: one module with a `SCORER` per task, see `scorer.Scorer`.

For masks, `pairing` matches predictions and references, `scoring` scores one case, `summary` computes means,
and `tables` and `output` present them. `compare` tests whether models differ.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mambamed.documents.evaluation import read_summary
from mambamed.documents.parts import entries_of_part, folds_behind
from mambamed.errors import DatasetError, MambamedError
from mambamed.io.lock import reading
from mambamed.io.ownership import Output

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
    if options.table is None and options.paper:  # the figures of the paper are shown beside the results
        options = replace(options, table=scorer.table)
    with ExitStack() as held:
        held.enter_context(reading(predictions, references))
        if options.part is not None:
            entries = entries_of_part(references, options.part, folds_behind(predictions))
            cases = tuple(case.id for case in entries)
            options = replace(options, cases=cases)
        if options.output is not None:
            inputs = [place for place in (predictions, references, options.images) if place is not None]
            older = _files_of_version_0_1
            output = Output(options.output, "evaluation", inputs, older=older, edited=("*",))
            held.enter_context(output.locked())
        return scorer.evaluate(predictions, references, options)


def _files_of_version_0_1(folder: Path) -> list[str]:
    """What mambamed 0.1.0, which kept no list of its files, wrote into the folder of an evaluation."""
    try:
        read_summary(folder / "summary.json")
    except MambamedError:
        return []
    tables = [path.name for path in folder.glob("table_*.*")]
    return ["cases.csv", "summary.csv", "summary.json", "report.html", *tables]


def read_evaluation(folder: Path, name: str) -> Evaluated:
    """Read back the folder that `evaluate -o` wrote; `name` is its name in tables.

    Raises:
        DatasetError: no such folder, or a file with faults.
    """
    if not (folder / "summary.json").is_file():
        fact = "is not an output folder of evaluate: no summary.json" if folder.is_dir() else "no such folder"
        raise DatasetError(f"{folder}: {fact}. Give what 'mambamed evaluate -o' wrote.")
    summary = read_summary(folder / "summary.json")
    return scorer_of(summary.task).read_back(folder, name, summary)


def scorer_of(task: str) -> Scorer:
    """The scorer of a task."""
    return importlib.import_module(SCORERS[task]).SCORER
