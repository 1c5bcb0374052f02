"""Table of class probabilities (CSV): written by `classify`, read by `evaluate`.

```
case,label,probability_NC,probability_AD,threshold,calibrated
sub-01,AD,0.21,0.79,0.43,yes
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import ROWS_OF_ONE_ID
from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, unescaped, write_csv
from mambamed.schema_errors import repeated

PREFIX = "probability_"
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Probabilities:
    """Predicted class probabilities."""

    classes: tuple[str, ...]  # in the network's order; of two classes, the second is "positive"
    cases: tuple[str, ...]
    values: NDArray[np.float64]  # `(n, K)`; each row sums to 1
    # for two classes, predict the positive one if its probability is at least this value; None for more
    # classes, of which the most probable is predicted
    threshold: float | None
    calibrated: bool  # whether the probabilities were calibrated on validation cases

    @property
    def labels(self) -> tuple[str, ...]:
        """The predicted class of each case."""
        if self.threshold is None:
            return tuple(self.classes[k] for k in self.values.argmax(axis=1))
        return tuple(self.classes[int(p >= self.threshold)] for p in self.values[:, 1])


def write_probabilities(
    path: Path, probabilities: Probabilities, reference: Sequence[str] | None = None
) -> None:
    """Write the table atomically, with the true classes as a further column if `reference` has them."""
    headers = ["case", "label", *(PREFIX + name for name in probabilities.classes), "threshold", "calibrated"]
    answers = zip(probabilities.cases, probabilities.labels, probabilities.values.tolist(), strict=True)
    common = [probabilities.threshold, "yes" if probabilities.calibrated else "no"]
    rows = [[case, label, *values, *common] for case, label, values in answers]
    if reference is not None:
        headers.append("reference")
        rows = [[*row, truth] for row, truth in zip(rows, reference, strict=True)]
    write_csv(path, headers, rows)


def read_probabilities(path: Path) -> Probabilities:
    """Read a table of class probabilities; columns may have any order, unknown ones are ignored.

    Raises DatasetError: no column `case`, fewer than two columns `probability_<class>`, duplicate cases, or a
    cell or row that is not a probability or does not sum to 1.
    """
    headers, rows = read_csv(path)
    names = [header for header in headers if header.startswith(PREFIX)]
    classes = tuple(unescaped(name.removeprefix(PREFIX)) for name in names)
    if "case" not in headers or len(names) < 2:
        raise DatasetError(
            f"{path}: expected a column 'case' and at least two columns '{PREFIX}<class>', got "
            f"{', '.join(headers)}. Give a table that classify wrote."
        )
    if not rows:
        raise DatasetError(f"{path}: contains no cases. Run classify first.")
    cases: list[str] = []
    values = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        cases.append(unescaped(row["case"]))
        for column, name in enumerate(names):
            values[number, column] = _probability(path, cases[-1], name, row[name])
        total = float(values[number].sum())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise DatasetError(f"{path}: {cases[-1]}: probabilities sum to {total:g}, not 1. Correct them.")
    if twice := repeated(cases):
        raise DatasetError(f"{path}: duplicate case {twice}. {ROWS_OF_ONE_ID}")
    calibrated = all(row.get("calibrated", "no") == "yes" for row in rows)
    return Probabilities(classes, tuple(cases), values, _threshold(path, rows, len(names)), calibrated)


def names_probabilities(path: Path) -> bool:
    """Whether a file is a table of class probabilities, by its headers."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return PREFIX in file.readline()


def _probability(path: Path, case: str, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DatasetError(f"{path}: {case}: {name}: expected 0 to 1, got {cell!r}. Correct it.")
    return value


def _threshold(path: Path, rows: Sequence[dict[str, str]], classes: int) -> float | None:
    """The threshold of a table of two classes (default: 0.5)."""
    if classes != 2:
        return None
    cells = {row.get("threshold", "") for row in rows}
    if cells == {""}:
        return 0.5
    if len(cells) > 1:
        raise DatasetError(
            f"{path}: threshold: several values ({', '.join(sorted(cells)[:3])}). Use one per table."
        )
    cell = cells.pop()
    try:
        return float(cell)
    except ValueError as error:
        raise DatasetError(f"{path}: threshold: expected a number, got {cell!r}. Correct it.") from error
