"""The classes that a column of a table holds, in order; a column of measurements or of ids is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mambamed.documents.agreement import one_spelling_twice
from mambamed.errors import DatasetError
from mambamed.schema_errors import named, some_of

_FEW = 5  # classes that any column may hold
_MANY_NUMBERS = 20
_CASES_PER_CLASS = 5  # of numbers; two of words


def found_classes(names: Sequence[str | None], column: str, source: Path) -> tuple[str, ...]:
    """The different classes, numbers by value, then words.

    Args:
        names: class of each case; None or empty if unknown.
        column: where they are from, for messages.

    Raises:
        DatasetError: one class in two spellings, or so many that they are measurements or ids.
    """
    given = [name for name in names if name]
    classes = tuple(sorted(set(given), key=_naturally))
    if twice := one_spelling_twice(classes):
        one, other = map(named, twice)
        raise DatasetError(
            f"{source}: {column}: {one} and {other} are spellings of one class. Use one of them."
        )
    if len(classes) <= _FEW:
        return classes
    numbers = [_number(name) for name in classes]
    per_class = len(given) / len(classes)
    listed = f"{len(classes)} different values in {len(given)} cases ({some_of(map(named, classes), most=3)})"
    if not any(map(math.isnan, numbers)):
        fractions = any(number != int(number) for number in numbers)
        if fractions or len(classes) > _MANY_NUMBERS or per_class < _CASES_PER_CLASS:
            raise DatasetError(
                f"{source}: {column}: {listed} are measurements, not classes. Add a column of groups, e.g. "
                'old and young, and name it with --class-column; or list the values as "classes" in the '
                "document of a case list."
            )
    elif per_class < 2:
        raise DatasetError(
            f"{source}: {column}: {listed} are too many classes. Name another column with --class-column."
        )
    return classes


def _naturally(text: str) -> tuple[float, str]:
    """Sort key: numbers by value, then words."""
    number = _number(text)
    return (math.inf if math.isnan(number) else number, text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
