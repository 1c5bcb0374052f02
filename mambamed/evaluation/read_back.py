"""Evaluations read back from their folders, as values per case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mambamed.documents.agreement import spelled_alike
from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, unescaped

ALL = "all"


@dataclass(frozen=True)
class Question:
    """A metric in which models are compared.

    Attributes:
        region: a region, a landmark, or "all".
        metric: name of its column.
        absent: value of a model without one if another model has one; NaN: the case is excluded.
    """

    region: str
    metric: str
    higher_is_better: bool
    absent: float = math.nan


@dataclass(frozen=True)
class Evaluated:
    """An evaluation read back from its folder.

    Attributes:
        task: a key of `SCORERS`.
        values: (unit, region, metric) -> value, including penalties.
        subjects: unit -> subject.
        cases: unit -> case.
        rules: how it was measured; only evaluations with equal rules can be compared.
        units: "cases", or "points" if a unit is a landmark of a case.
        truth: case -> class.
        classes: in the order of the predictions; of two, the second is positive.
        regions: of masks: region -> its labels.
        probabilities: for two classes, one per run: case -> probability of the positive class.
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
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def respelled(self, names: Sequence[str]) -> Evaluated:
        """Regions or landmarks with these names where only the spelling differs, and none has the name."""
        own = dict.fromkeys(each.region for each in self.questions)
        alike = {name: each for name, each in spelled_alike(own, names).items() if each not in own}
        questions = [replace(each, region=alike.get(each.region, each.region)) for each in self.questions]
        values = {(unit, alike.get(name, name), key): v for (unit, name, key), v in self.values.items()}
        regions = {alike.get(name, name): members for name, members in self.regions.items()}
        return replace(self, questions=tuple(questions), values=values, regions=regions)


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
