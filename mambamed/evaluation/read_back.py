"""Evaluations of any task, read back from the folders that `evaluate -o` wrote, as values a case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.documents.evaluation import (
    ClassificationSummary,
    LandmarksSummary,
    SegmentationSummary,
    read_summary,
)
from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, unescaped
from mambamed.metrics import METRICS, parse_metric

ALL = "all"
ACCURACY, BRIER = "accuracy", "brier"
_ERROR = "error_mm"


@dataclass(frozen=True)
class Question:
    """What models can be compared in.

    Attributes:
        region: a region, a landmark, or "all".
        metric: as its column is called.
        higher_is_better: else the smallest value is the best.
        absent: what counts for a model without a value where another has one; NaN: that case is left out.
    """

    region: str
    metric: str
    higher_is_better: bool
    absent: float = math.nan


@dataclass(frozen=True)
class Evaluated:
    """An evaluation read back from its folder.

    Attributes:
        name: for people.
        task: "segmentation", "landmarks" or "classification".
        questions: what was measured.
        values: (unit, region, metric) -> value, with penalties put in. A unit is a case; of landmarks it is a
            case and a landmark.
        subjects: unit -> person.
        cases: unit -> its case.
        rules: how it was measured; only evaluations under the same are comparable.
        truth: case -> its class.
        classes: as asked about; of two, the second is positive.
        probabilities: of the positive one of two classes, case -> probability, a table each.
    """

    name: str
    task: str
    questions: tuple[Question, ...]
    values: Mapping[tuple[str, str, str], float]
    subjects: Mapping[str, str]
    cases: Mapping[str, str]
    rules: str
    truth: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    probabilities: tuple[Mapping[str, float], ...] = ()


def read_back(folder: Path, name: str) -> Evaluated:
    """Read `cases.csv` and `summary.json` of an evaluation.

    Raises:
        DatasetError: no such folder, or tables of another version.
    """
    summary = read_summary(folder / "summary.json")
    if isinstance(summary, SegmentationSummary):
        return _of_masks(folder, name, summary)
    if isinstance(summary, LandmarksSummary):
        return _of_landmarks(folder, name, summary)
    return _of_classes(folder, name, summary)


def _rows(folder: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of `cases.csv`.

    Raises:
        DatasetError: a column is missing.
    """
    headers, rows = read_csv(folder / "cases.csv")
    if missing := sorted(set(needed) - {unescaped(header) for header in headers}):
        raise DatasetError(f"{folder / 'cases.csv'}: has no column {', '.join(missing)}; evaluate again")
    return [{unescaped(column): unescaped(cell) for column, cell in row.items()} for row in rows]


def _number(folder: Path, line: int, cell: str) -> float:
    """A cell; NaN where it is empty."""
    try:
        return float(cell or "nan")
    except ValueError as error:
        raise DatasetError(f"{folder / 'cases.csv'}:{line}: {error}; evaluate again") from error


def _of_masks(folder: Path, name: str, summary: SegmentationSummary) -> Evaluated:
    """An infinite distance and a case that could not be scored have the penalty of the evaluation.

    A region in neither mask counts as perfect where another model invented it.
    """
    metrics = [parse_metric(text) for text in summary.settings.metrics]
    rows = _rows(
        folder, ["case", "region", "subject", "penalty_mm", "presence", *(metric.name for metric in metrics)]
    )
    values: dict[tuple[str, str, str], float] = {}
    for line, row in enumerate(rows, start=2):
        for metric in metrics:
            value = _number(folder, line, row[metric.name])
            if math.isinf(value) or row["presence"] == "unscored":
                lower = METRICS[metric.kind].better == "lower"
                value = _number(folder, line, row["penalty_mm"]) if lower else summary.settings.miss
            values[row["case"], row["region"], metric.name] = value
    perfect = {"higher": 1.0, "lower": 0.0}
    questions = [
        Question(region, metric.name, better == "higher", perfect[better])
        for region in summary.regions
        for metric in metrics
        if (better := METRICS[metric.kind].better)
    ]
    cases = {row["case"]: row["case"] for row in rows}
    subjects = {row["case"]: row["subject"] for row in rows}
    rules = f"{summary.settings.protocol}: {summary.settings.rules}"
    return Evaluated(name, "segmentation", tuple(questions), values, subjects, cases, rules)


def _of_landmarks(folder: Path, name: str, summary: LandmarksSummary) -> Evaluated:
    """A landmark that was missed has no error, and is a failure at every distance of the success rate."""
    rows = _rows(folder, ["case", "landmark", "status", _ERROR])
    rates = {f"sdr_{distance:g}mm": distance for distance in summary.settings.sdr_mm}
    values: dict[tuple[str, str, str], float] = {}
    subjects, cases = {}, {}
    for line, row in enumerate(rows, start=2):
        if row["status"] == "spurious":
            continue
        unit, error = f"{row['case']}\n{row['landmark']}", _number(folder, line, row[_ERROR])
        subjects[unit], cases[unit] = row.get("subject") or row["case"], row["case"]
        values[unit, row["landmark"], _ERROR] = values[unit, ALL, _ERROR] = error
        for rate, distance in rates.items():
            values[unit, ALL, rate] = float(error <= distance)
    landmarks = list(dict.fromkeys(row["landmark"] for row in rows if row["status"] != "spurious"))
    questions = [Question(each, _ERROR, higher_is_better=False) for each in (ALL, *landmarks)]
    questions += [Question(ALL, rate, higher_is_better=True) for rate in rates]
    rules = "radial error over the points that all found; a miss fails at every distance"
    return Evaluated(name, "landmarks", tuple(questions), values, subjects, cases, rules)


def _of_classes(folder: Path, name: str, summary: ClassificationSummary) -> Evaluated:
    """Whether the answer was right, and the squared error of the probabilities; means over the tables."""
    classes = summary.settings.classes
    rows = _rows(folder, ["case", "run", "reference", "right", "subject", *classes])
    seen: dict[tuple[str, str], list[float]] = {}
    runs: dict[str, dict[str, float]] = {}
    for line, row in enumerate(rows, start=2):
        case, chances = row["case"], [_number(folder, line, row[each]) for each in classes]
        errors = [(p - (row["reference"] == each)) ** 2 for p, each in zip(chances, classes, strict=True)]
        seen.setdefault((case, BRIER), []).append(errors[1] if len(classes) == 2 else sum(errors))
        seen.setdefault((case, ACCURACY), []).append(_number(folder, line, row["right"]))
        if len(classes) == 2:
            runs.setdefault(row["run"], {})[case] = chances[1]
    questions = (Question(ALL, ACCURACY, higher_is_better=True), Question(ALL, BRIER, higher_is_better=False))
    values = {(case, ALL, metric): sum(each) / len(each) for (case, metric), each in seen.items()}
    subjects = {row["case"]: row["subject"] for row in rows}
    truth = {row["case"]: row["reference"] for row in rows}
    rules = f"classes {', '.join(classes)}, each model at its own threshold"
    return Evaluated(
        name,
        "classification",
        questions,
        values,
        subjects,
        {case: case for case in subjects},
        rules,
        truth,
        classes,
        tuple(runs.values()),
    )
