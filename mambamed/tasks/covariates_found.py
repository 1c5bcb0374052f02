"""The covariates of a dataset that a general recipe uses. No torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mambamed.preparation.store import PreparedCase

_NOT_KNOWN = {"", "n/a", "na", "nan", "none", "unknown"}
_MOST_WORDS = 10


def is_known(value: Any) -> bool:
    """Whether a cell has a value.

    >>> is_known("n/a"), is_known(None), is_known("0")
    (False, False, True)
    """
    return value is not None and str(value).strip().lower() not in _NOT_KNOWN


def covariates_found(cases: Sequence[PreparedCase]) -> tuple[dict[str, Any], str]:
    """Covariates as a recipe names them, "number" or a list of words, and a line about the choice.

    Left out are columns with one value, with many words (ids), and those from which the class of every case
    can be read without an image: they probably are the answer in other words.
    """
    names = dict.fromkeys(name for case in cases for name in case.covariates)
    wanted: dict[str, Any] = {}
    left_out = []
    for name in names:
        pairs = [(str(case.covariates.get(name)).strip(), case.class_name or "") for case in cases]
        known = [(value, answer) for value, answer in pairs if is_known(value)]
        kind, fault = _kind_of(known)
        if fault:
            left_out.append(f"{name} ({fault})")
        else:
            wanted[name] = kind
    if not names:
        return {}, ""
    used = f"columns of the table that are read in addition to the image: {', '.join(wanted) or 'none'}"
    return wanted, f"{used}; left out: {', '.join(left_out)}" if left_out else used


def _kind_of(known: Sequence[tuple[str, str]]) -> tuple[Any, str]:
    """ "number" or the list of words, and why the column is not used."""
    words = sorted({value for value, _ in known})
    if len(words) < 2:
        return None, "the same in all cases"
    numbers = [_number(value) for value, _ in known]
    if not any(math.isnan(number) for number in numbers):
        of_class: defaultdict[str, list[float]] = defaultdict(list)
        for number, (_, answer) in zip(numbers, known, strict=True):
            of_class[answer].append(number)
        return "number", "determines the class alone" if _apart(of_class) else ""
    if len(words) > _MOST_WORDS:
        return None, f"{len(words)} different words"
    answers = defaultdict(set)
    for value, answer in known:
        answers[value].add(answer)
    alone = len({answer for _, answer in known}) > 1 and all(len(each) == 1 for each in answers.values())
    return words, "determines the class alone" if alone else ""


def _apart(of_class: Mapping[str, Sequence[float]]) -> bool:
    """Whether the ranges of the classes do not meet.

    >>> _apart({"a": [1.0, 2.0], "b": [3.0]}), _apart({"a": [1.0, 3.0], "b": [2.0]}), _apart({"a": [1.0]})
    (True, False, False)
    """
    ranges = sorted((min(values), max(values)) for values in of_class.values())
    disjoint = all(one[1] < other[0] for one, other in pairwise(ranges))
    return len(ranges) > 1 and disjoint


def _number(text: str) -> float:
    try:
        return float(text) if math.isfinite(float(text)) else math.nan
    except ValueError:
        return math.nan
