"""Splits as people give them: options of the command line, and files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mambamed.errors import DatasetError, RecipeError
from mambamed.io.json_files import read_json
from mambamed.preparation.splits import PARTS, Fold, Member, groups_of, shown
from mambamed.recipe import Split


def read_splits(path: Path, members: Mapping[str, Member], group_by: str = "subject") -> list[Fold]:
    """The user's own split.

    Args:
        path: .json in the shape of nnU-Net's splits_final.json: a list of {"train": [...], "val": [...]}, or
            one such dict; "test" may be there too.
        members: the cases there are.
        group_by: what must not straddle the parts of a fold.

    Raises:
        DatasetError: another shape, unknown cases, a case or a group in two parts of one fold.
    """
    document: Any = read_json(path)
    folds = [document] if isinstance(document, dict) else document
    if not isinstance(folds, list) or not folds:
        raise DatasetError(f'{path}: holds no splits; write [{{"train": [...], "val": [...]}}, ...]')
    checked = []
    for number, fold in enumerate(folds):
        if not isinstance(fold, dict) or not {"train", "val"} <= set(fold) or set(fold) - set(PARTS):
            raise DatasetError(
                f'{path}: fold {number} must hold "train" and "val" (and "test"), lists of ids'
            )
        parts = {part: sorted(str(case_id) for case_id in fold[part]) for part in PARTS if part in fold}
        named = [case_id for ids in parts.values() for case_id in ids]
        unknown = sorted(set(named) - set(members))
        if unknown:
            raise DatasetError(f"{path}: fold {number} names cases that are not there: {shown(unknown)}")
        twice = sorted({case_id for case_id in named if named.count(case_id) > 1})
        if twice:
            raise DatasetError(f"{path}: fold {number} has cases in two places: {shown(twice)}")
        if not parts["train"]:
            raise DatasetError(f"{path}: fold {number} has no training cases; add some")
        _refuse_torn(path, number, parts, members, group_by)
        checked.append(parts)
    return checked


def with_options(
    split: Split,
    *,
    folds: int | None = None,
    fractions: str | None = None,
    group_by: str | None = None,
    stratify: str | None = None,
    test_cases: str | None = None,
    seed: int | None = None,
) -> Split:
    """The recipe's split with what the command line says in it.

    Args:
        fractions: as in "7:1:2" (train, validation, test) or "8:2".
        test_cases: ids with commas between them, or a text file with one id a line.

    Raises:
        RecipeError: an option that cannot be read, or two that exclude each other.
    """
    if folds is not None and fractions is not None:
        raise RecipeError("--folds and --split exclude each other; give one of them")
    changes: dict[str, Any] = {}
    if folds is not None:
        changes |= {"folds": folds, "train": None, "val": None, "test": None}
    if fractions is not None:
        changes |= _fractions(fractions)
    if test_cases is not None:
        file = Path(test_cases)
        text = file.read_text(encoding="utf-8-sig") if file.is_file() else test_cases.replace(",", "\n")
        changes["test_cases"] = tuple(line.strip() for line in text.splitlines() if line.strip())
    named = {"group_by": group_by, "stratify": stratify, "seed": seed}
    changes |= {key: value for key, value in named.items() if value is not None}
    try:
        return Split.model_validate({**split.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][0]}" if first["loc"] else "--folds, --split or --test-cases"
        fact = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{option.replace('_', '-')}: {fact}") from error


def _fractions(text: str) -> dict[str, float | None]:
    try:
        numbers = [float(part) for part in text.split(":")]
        if len(numbers) not in {2, 3} or min(numbers) <= 0:
            raise ValueError
    except ValueError as error:
        raise RecipeError(f"--split {text}: write train:val:test as in 7:1:2, or 8:2") from error
    train, val, *rest = (number / sum(numbers) for number in numbers)
    return {"train": train, "val": val, "test": rest[0] if rest else None}


def _refuse_torn(path: Path, number: int, parts: Fold, members: Mapping[str, Member], group_by: str) -> None:
    place: dict[str, tuple[str, str]] = {}
    group_of = groups_of(members, group_by)
    for part, ids in parts.items():
        for case_id in ids:
            group = group_of[case_id]
            other, first = place.setdefault(group, (part, case_id))
            if other != part:
                raise DatasetError(
                    f"{path}: fold {number} tears {group_by} {group} apart: {first} is in {other}, {case_id} "
                    f"in {part}; put them together (or say --group-by case)"
                )
