"""Class probabilities of cases as a CSV table: what `classify` writes and `evaluate` reads.

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

from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, unescaped, write_csv

PREFIX = "probability_"
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Probabilities:
    """What a classifier says of some cases.

    Attributes:
        classes: in the network's order; of two, the second is "positive".
        cases: ids.
        values: `(n, K)`, rows that sum to 1.
        threshold: of two classes, the positive one is answered from this probability on; None for more
            classes, where the most probable is answered.
        calibrated: whether the probabilities were scaled on validation cases.
    """

    classes: tuple[str, ...]
    cases: tuple[str, ...]
    values: NDArray[np.float64]
    threshold: float | None
    calibrated: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The class that each case is called."""
        if self.threshold is None:
            return tuple(self.classes[k] for k in self.values.argmax(axis=1))
        return tuple(self.classes[int(p >= self.threshold)] for p in self.values[:, 1])


def write_probabilities(
    path: Path, probabilities: Probabilities, reference: Sequence[str] | None = None
) -> None:
    """Write the table, atomically, so that no spreadsheet runs a cell.

    Args:
        path: a .csv file.
        probabilities: a row a case.
        reference: the true class of each, as a further column.
    """
    known = [] if reference is None else ["reference"]
    headers = ["case", "label", *(PREFIX + name for name in probabilities.classes)]
    rows = [
        [
            case,
            label,
            *row.tolist(),
            probabilities.threshold,
            "yes" if probabilities.calibrated else "no",
            *(reference[number : number + 1] if reference is not None else []),
        ]
        for number, (case, label, row) in enumerate(
            zip(probabilities.cases, probabilities.labels, probabilities.values, strict=True)
        )
    ]
    write_csv(path, [*headers, "threshold", "calibrated", *known], rows)


def read_probabilities(path: Path) -> Probabilities:
    """Read a table of class probabilities; its columns may come in any order, further ones are passed over.

    Raises:
        DatasetError: no column `case` or fewer than two of the form `probability_<class>`, a case twice, a
            cell that is no probability, or rows that do not sum to 1.
    """
    headers, rows = read_csv(path)
    names = [header for header in headers if header.startswith(PREFIX)]
    classes = tuple(unescaped(name.removeprefix(PREFIX)) for name in names)
    if "case" not in headers or len(names) < 2:
        raise DatasetError(
            f"{path}: is no table of probabilities: it needs a column 'case' and two or more "
            f"'{PREFIX}<class>', here {', '.join(headers)}"
        )
    if not rows:
        raise DatasetError(f"{path}: holds no case; classify some first")
    cases: list[str] = []
    values = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        cases.append(unescaped(row["case"]))
        for column, name in enumerate(names):
            values[number, column] = _probability(path, cases[-1], name, row[name])
        total = float(values[number].sum())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise DatasetError(f"{path}: {cases[-1]}: its probabilities sum to {total:g}, not 1; correct it")
    if len(set(cases)) != len(cases):
        twice = next(case for case in cases if cases.count(case) > 1)
        raise DatasetError(f"{path}: duplicate case {twice}; keep one row of it")
    calibrated = all(row.get("calibrated", "no") == "yes" for row in rows)
    return Probabilities(classes, tuple(cases), values, _threshold(path, rows, len(names)), calibrated)


def names_probabilities(path: Path) -> bool:
    """Whether a file is such a table, told by its headers alone."""
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
        raise DatasetError(f"{path}: {case}: {name} is {cell!r}, not a number from 0 to 1; correct it")
    return value


def _threshold(path: Path, rows: Sequence[dict[str, str]], classes: int) -> float | None:
    """The threshold of the table; where it names none, the classes are equals: one half of two."""
    if classes != 2:
        return None
    cells = {row.get("threshold", "") for row in rows}
    if cells == {""}:
        return 0.5
    if len(cells) > 1:
        raise DatasetError(
            f"{path}: several thresholds, {', '.join(sorted(cells)[:3])}; there is one a table"
        )
    cell = cells.pop()
    try:
        return float(cell)
    except ValueError as error:
        raise DatasetError(f"{path}: threshold {cell!r} is not a number; correct it") from error
