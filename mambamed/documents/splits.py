"""splits.json of a prepared dataset, and the file of `--splits`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Field

from mambamed.documents.base import Model
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.json_files import read_json, write_json
from mambamed.schema_errors import named

if TYPE_CHECKING:
    from mambamed.documents.prepared import PreparedIndex

NO_FOLD = "none"  # of a training on all cases but those of the test part, without validation
FoldName = int | str  # its number, or "none"

PARTS = ("train", "val", "test")
_MANY = 5


class Fold(Model):
    """Case ids of each part of one fold."""

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    val: tuple[str, ...]
    test: tuple[str, ...] | None = None

    def parts(self) -> dict[str, list[str]]:
        """Part -> its case ids, sorted."""
        found = {part: getattr(self, part) for part in PARTS}
        return {part: sorted(ids) for part, ids in found.items() if ids is not None}


SplitsFile = Annotated[tuple[Fold, ...], Field(min_length=1)] | Fold


class Splits(Model):
    """A list of folds, or a single fold, as in nnU-Net's splits_final.json."""

    REMEDY: ClassVar[str] = 'Write a list of {"train": [case ids], "val": [case ids]}.'

    folds: Annotated[tuple[Fold, ...], Field(min_length=1)]

    @classmethod
    def read_for(cls, path: Path, group_of: Mapping[str, str], group_by: str) -> list[dict[str, list[str]]]:
        """Read and check the splits of a dataset.

        Args:
            group_of: case id -> group that must be in one part of each fold.
            group_by: kind of the groups, for messages.

        Returns:
            One dict per fold, "train" and "val" (and "test") -> sorted case ids.

        Raises:
            DatasetError: invalid file, unknown cases, a case or a group in two parts of one fold.
        """
        content: Any = read_json(path)
        splits = cls.of([content] if isinstance(content, dict) else content, path)
        folds = [fold.parts() for fold in splits.folds]
        faults = [
            f"{path}: folds.{number}: {fault}"
            for number, fold in enumerate(folds)
            for fault in _faults(fold, group_of, group_by)
        ]
        if faults:
            raise DatasetError("\n".join(faults))
        return folds

    @classmethod
    def of(cls, folds: Sequence[Mapping[str, Sequence[str]]], path: Path) -> Splits:
        """Splits to be written to `path`.

        Raises:
            DatasetError: a fold without training cases.
        """
        return cls.checked({"folds": folds}, path)

    def write(self, path: Path) -> None:
        """Write the list of folds atomically."""
        write_json(path, [fold.parts() for fold in self.folds])


class Grouped(Protocol):
    """What decides which cases are kept together."""

    @property
    def subject(self) -> str: ...
    @property
    def covariates(self) -> Mapping[str, str]: ...


def groups_of(members: Mapping[str, Grouped], group_by: str) -> dict[str, str]:
    """Case id -> the group that it is kept together with.

    `group_by`: "subject", "case", or a column (e.g. site): cases with the same value stay together, and so do
    the cases of one subject. Raises RecipeError: no case has that column.
    """
    if group_by == "case":
        return {case_id: case_id for case_id in members}
    subjects = {case_id: member.subject for case_id, member in members.items()}
    if group_by == "subject":
        return subjects
    if not any(group_by in member.covariates for member in members.values()):
        raise RecipeError(
            f"no case has a column {group_by!r} to group by. Use subject, case or an existing column."
        )
    joined: dict[str, str] = {}  # subject -> another one of its group (union-find); roots are absent

    def first_of(subject: str) -> str:
        while subject in joined:
            subject = joined[subject]
        return subject

    known: dict[str, str] = {}
    for member in members.values():
        if value := member.covariates.get(group_by):
            one, other = first_of(known.setdefault(value, member.subject)), first_of(member.subject)
            if one != other:
                joined[other] = one
    return {case_id: first_of(subject) for case_id, subject in subjects.items()}


def cases_of(folds: Sequence[Mapping[str, list[str]]], fold: FoldName) -> dict[str, list[str]]:
    """Part -> case ids of a fold; of "none", all cases train but those of a test part, and none validate."""
    if fold != NO_FOLD:
        return dict(folds[int(fold)])
    test = sorted({case_id for each in folds for case_id in each.get("test", ())})
    known = {case_id for each in folds for part in ("train", "val") for case_id in each[part]}
    return {"train": sorted(known.difference(test)), "val": [], "test": test}


def _faults(fold: Mapping[str, list[str]], group_of: Mapping[str, str], group_by: str) -> list[str]:
    named = Counter(case_id for ids in fold.values() for case_id in ids)
    faults = []
    if unknown := sorted(set(named) - set(group_of)):
        faults.append(f"names cases that the dataset does not have: {shown(unknown)}. Remove them.")
    if twice := sorted(case_id for case_id, count in named.items() if count > 1):
        faults.append(f"has cases in two places: {shown(twice)}. Keep each in one part.")
    if faults:
        return faults
    place: dict[str, tuple[str, str]] = {}
    for part, ids in fold.items():
        for case_id in ids:
            other, first = place.setdefault(group_of[case_id], (part, case_id))
            if other != part:
                return [
                    f"splits {group_by} {group_of[case_id]}: {first} is in {other}, {case_id} in {part}. "
                    "Put them into one part, or prepare with --group-by case."
                ]
    return []


def shown(names: list[str]) -> str:
    """Some of the names, for a message."""
    return ", ".join(map(named, names[:_MANY])) + (" ..." if len(names) > _MANY else "")


def splits_of(prepared: Path, index: PreparedIndex) -> list[dict[str, list[str]]]:
    """The folds of a prepared dataset, as `Splits.read_for` reads and checks them.

    Raises:
        DatasetError: splits.json cannot be used, e.g. a case or a group is in two parts of one fold.
    """
    group_by = index.group_by or "case"  # 0.1.0 did not record it: accept any split
    group_of = groups_of({case.id: case for case in index.cases}, group_by)
    return Splits.read_for(prepared / "splits.json", group_of, group_by)
