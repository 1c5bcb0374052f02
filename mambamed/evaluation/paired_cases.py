"""Values of several evaluations of the same cases, side by side."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from mambamed.documents.agreement import Naming, disagreement
from mambamed.errors import DatasetError
from mambamed.evaluation.read_back import Evaluated, Question


def check_alike(read: Sequence[Evaluated]) -> None:
    """Raise `DatasetError` if tasks, rules or reference classes differ."""
    first = read[0]
    for other in read[1:]:
        if other.task != first.task:
            raise DatasetError(
                f"compare: {first.name} evaluates {first.task}, but {other.name} {other.task}. Compare "
                "evaluations of the same task."
            )
        if other.rules != first.rules:
            raise DatasetError(
                f"compare: {first.name} and {other.name} follow different rules ({first.rules} | "
                f"{other.rules}). Evaluate both with the same options."
            )
        sides = [Naming.of(each.name, regions=each.regions) for each in (first, other)]
        if line := disagreement(*sides):
            raise DatasetError(
                f"compare: regions: names disagree: {line}. Evaluate both with the same names and labels."
            )
        for case in sorted(set(first.truth) & set(other.truth)):
            if first.truth[case] != other.truth[case]:
                raise DatasetError(
                    f"compare: {case} is {first.truth[case]} in {first.name}, but {other.truth[case]} in "
                    f"{other.name}. Evaluate both against the same reference."
                )


def shared_units(read: Sequence[Evaluated], common: bool) -> list[str]:
    """The units (cases or points) that all evaluations have, sorted.

    Raises `DatasetError`: there are none, or some evaluations have others and `common` is not set.
    """
    sets = [set(evaluated.cases) for evaluated in read]
    shared = set.intersection(*sets)
    if not shared:
        raise DatasetError("compare: the evaluations have no case in common. Evaluate the same cases.")
    if not common and any(units != shared for units in sets):
        extra = "; ".join(
            f"only some have {', '.join(_cases(evaluated, units - shared)[:5])} of {evaluated.name}"
            for evaluated, units in zip(read, sets, strict=True)
            if units - shared
        )
        count = len(_cases(read[0], shared))
        raise DatasetError(
            f"compare: the evaluations cover different cases ({extra}). Evaluate the same cases, or compare "
            f"the {count} common ones with --common."
        )
    return sorted(shared)


def _cases(evaluated: Evaluated, units: Collection[str]) -> list[str]:
    return sorted({evaluated.cases[unit] for unit in units})


def paired_values(
    read: Sequence[Evaluated], units: Sequence[str], question: Question
) -> tuple[list[str], np.ndarray]:
    """The units in which some model has a value, and `(models, units)` values."""
    kept, columns = [], []
    for unit in units:
        key = (unit, question.region, question.metric)
        column = [evaluated.values.get(key, math.nan) for evaluated in read]
        if all(math.isnan(value) for value in column):
            continue
        column = [question.absent if math.isnan(value) else value for value in column]
        if not any(math.isnan(value) for value in column):
            kept.append(unit)
            columns.append(column)
    return kept, np.array(columns, float).reshape(len(kept), len(read)).T


def subjects_of(read: Sequence[Evaluated], units: Sequence[str]) -> dict[str, str]:
    """Unit -> subject, as any of the evaluations knows it.

    Raises `DatasetError`: two evaluations name different subjects of a case.
    """
    people = {}
    for unit in units:
        case = read[0].cases[unit]
        known = {each.subjects[unit]: each.name for each in read if each.subjects[unit] != case}
        if len(known) > 1:
            (one, here), (other, there), *_ = known.items()
            fact = f"{case} is of the subject {one} in {here}, but of {other} in {there}"
            raise DatasetError(f"compare: {fact}. Evaluate both against the same reference.")
        people[unit] = next(iter(known), case)
    return people
