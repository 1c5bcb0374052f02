"""Read the covariates of the cases to classify from a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.errors import DatasetError
from mambamed.io.tables import column_of, read_csv, unescaped


def read_covariates(path: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Case id -> covariate -> text, from a CSV or TSV with a column `case` or `participant_id`.

    Raises:
        DatasetError: no such column, no column of any covariate, or a duplicate case.
    """
    headers, rows = read_csv(path)
    ids = column_of(headers)
    there = [name for name in names if name in headers]
    if ids is None or not there:
        lacking = "case" if ids is None else " or ".join(names)
        raise DatasetError(f"{path}: no column {lacking}; its columns are {', '.join(headers)}")
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        case = unescaped(row[ids])
        if case in known:
            raise DatasetError(f"{path}: duplicate case {case}; keep one row of it")
        known[case] = {name: row[name] for name in there}
    return known
