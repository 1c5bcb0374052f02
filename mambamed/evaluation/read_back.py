"""Evaluations of any task, read back as values per case; the scorer of each task fills `Evaluated`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, unescaped

ALL = "all"


@dataclass(frozen=True)
class Question:
    """What models can be compared in.

    Attributes:
        region: a region, a landmark, or "all".
        metric: name of its column.
        higher_is_better: else the smallest value is the best.
        absent: what counts for a model without a value if another has one; NaN: that case is left out.
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
        task: a key of `SCORERS`.
        questions: what was measured.
        values: (unit, region, metric) -> value, with penalties put in.
        subjects: unit -> person.
        cases: unit -> its case.
        rules: how it was measured; only evaluations under the same rules are comparable.
        units: what a unit is: "cases", or "points" for a case and a landmark.
        truth: case -> its class.
        classes: as in the predictions; of two, the second is positive.
        probabilities: of the positive one of two classes: case -> probability, one table per run.
    """

    name: str
    task: str
    questions: tuple[Question, ...]
    values: Mapping[tuple[str, str, str], float]
    subjects: Mapping[str, str]
    cases: Mapping[str, str]
    rules: str
    units: str = "cases"
    truth: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    probabilities: tuple[Mapping[str, float], ...] = ()


def read_case_rows(folder: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of `cases.csv`.

    Raises:
        DatasetError: a column is missing.
    """
    headers, rows = read_csv(folder / "cases.csv")
    if missing := sorted(set(needed) - {unescaped(header) for header in headers}):
        raise DatasetError(
            f"{folder / 'cases.csv'}: column {', '.join(missing)} is missing. Run evaluate again."
        )
    return [{unescaped(column): unescaped(cell) for column, cell in row.items()} for row in rows]


def read_number(folder: Path, line: int, cell: str) -> float:
    """A cell of `cases.csv`; NaN if it is empty.

    Raises:
        DatasetError: not a number.
    """
    try:
        return float(cell or "nan")
    except ValueError as error:
        raise DatasetError(f"{folder / 'cases.csv'}:{line}: {error}. Run evaluate again.") from error
