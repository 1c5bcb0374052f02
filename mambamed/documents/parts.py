"""The parts of a prepared dataset by name: which cases are for training, validation or test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.documents.prediction import PredictionRecord, records_of
from mambamed.documents.prepared import CaseEntry, PreparedIndex
from mambamed.documents.splits import FoldName, cases_of, splits_of
from mambamed.errors import RecipeError
from mambamed.numerals import is_whole


def entries_of_part(prepared: Path, part: str, folds: Sequence[FoldName] = ()) -> list[CaseEntry]:
    """The cases of a part of a prepared dataset, sorted by id.

    Args:
        prepared: the prepared dataset.
        part: "train", "val" or "test".
        folds: of the models; those that the dataset does not have are ignored. If none is left: all folds.

    Raises:
        DatasetError: it is not a prepared dataset, or its splits.json cannot be used.
        RecipeError: the part is empty, or differs between the folds.
    """
    index = PreparedIndex.read(prepared / "dataset.json")
    splits = splits_of(prepared, index)
    known: list[FoldName] = [fold for fold in folds if isinstance(fold, str) or fold < len(splits)]
    chosen = known or list(range(len(splits)))
    found = {fold: frozenset(cases_of(splits, fold).get(part, ())) for fold in chosen}
    if len(set(found.values())) > 1:
        raise RecipeError(
            f"--part {part}: differs between the folds {', '.join(map(str, chosen))} of {prepared}. "
            "Choose one with predict --folds, and evaluate its cases with --only-predicted."
        )
    ids = next(iter(found.values()))
    if not ids:
        hint = " Prepare it with e.g. --split 7:1:2 or --test-cases." if part == "test" else ""
        fold = f" in fold {chosen[0]}" if len(chosen) == 1 else ""
        raise RecipeError(f"--part {part}: {prepared} has no such cases{fold}.{hint}")
    return [case for case in index.cases if case.id in ids]


def folds_behind(predictions: Path) -> list[FoldName]:
    """The folds whose checkpoints made predictions, by the records next to them; none if there is no record.

    Args:
        predictions: a folder, or a table of classes.
    """
    names: set[str] = set()
    for path in records_of(predictions):
        for member in (PredictionRecord.read(path).settings or {}).get("members") or ():
            if isinstance(member, dict) and isinstance(checkpoints := member.get("checkpoints"), dict):
                names |= set(checkpoints)
    folds = (name.removeprefix("fold_") for name in sorted(names))
    return [int(fold) if is_whole(fold) else fold for fold in folds]
