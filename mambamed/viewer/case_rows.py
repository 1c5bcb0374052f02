"""The rows of the cases.csv of an evaluation, by case; and the paths that its documents name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mambamed.converters import prepared
from mambamed.evaluation.read_back import read_case_rows, read_number
from mambamed.io.points import Point

NO_IMAGE = "No image found. Give its folder with --images."
Rows = list[dict[str, str]]


def rows_by_case(folder: Path, needed: Sequence[str]) -> dict[str, Rows]:
    """The rows of each case, in the order of the table.

    Raises:
        DatasetError: a column is missing.
    """
    found: dict[str, Rows] = {}
    for row in read_case_rows(folder, needed):
        found.setdefault(row["case"], []).append(row)
    return found


def number(folder: Path, row: Mapping[str, str], column: str) -> float:
    """A cell as a number; NaN if it is empty. Raises DatasetError: not a number."""
    return read_number(folder, 0, row[column])


def mean(values: Sequence[float]) -> float | None:
    """The mean of what is defined; None if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def position(folder: Path, row: Mapping[str, str], prefix: str) -> Point | None:
    """The point in three columns; None if they are empty. Raises DatasetError: not a number."""
    columns = [f"{prefix}{axis}" for axis in "xyz"]
    if not all(row.get(column) for column in columns):
        return None
    x, y, z = (number(folder, row, column) for column in columns)
    return x, y, z


def existing(path: str, folder: Path) -> Path | None:
    """A path from a document of an evaluation, which may be relative to where the command was run.

    The folders above the evaluation are tried first: the current folder may be that of another project, with
    files of the same names of other persons.
    """
    for base in (folder, *folder.resolve().parents, Path()):
        if path and (base / path).exists():
            return base / path
    return None


def common_folder(paths: Sequence[Path]) -> Path | None:
    """The folder of references: a prepared dataset, or what all of them lie in."""
    if not paths:
        return None
    root = Path(os.path.commonpath([path.parent for path in paths]))
    if prepared.recognizes(root.parent):
        return root.parent
    alone = len(paths) == 1 and paths[0].name.startswith(root.name)  # the folder of a BraTS case
    return root.parent if alone else root
