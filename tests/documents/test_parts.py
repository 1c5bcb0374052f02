"""The parts of a prepared dataset by name."""

from __future__ import annotations

import pytest

from mambamed.documents.parts import entries_of_part, folds_behind
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.json_files import read_json, write_json
from mambamed.run.provenance import provenance


def dataset(root, *folds):
    """Cases a to d, whose splits are given."""
    facts = {"class": None, "points": None, "shape": [8, 8, 8], "channels": 1, "has_label": False}
    cases = [{"id": i, "subject": i, "covariates": {}, **facts} for i in "abcd"]
    index = {"format": 1, "name": "four", "channels": {"a": "mri"}, "labels": {}, "regions": {}}
    write_json(root / "dataset.json", index | {"prepared_format": 1, "group_by": "case", "cases": cases})
    write_json(root / "splits.json", list(folds))
    return root


def test_a_part_is_that_of_the_folds_if_they_agree(tmp_path) -> None:
    two = [{"train": ["a"], "val": ["b"], "test": ["d"]}, {"train": ["b"], "val": ["a"], "test": ["d"]}]
    root = dataset(tmp_path, *two)

    def ids(part, *folds):
        return [entry.id for entry in entries_of_part(root, part, folds)]

    assert ids("test") == ids("test", 0, 1) == ids("test", 7) == ids("test", "none") == ["d"]
    assert ids("val", 0) == ["b"] and ids("val", 1) == ["a"] and ids("train", "none") == ["a", "b"]
    with pytest.raises(RecipeError, match=r"--part val: differs between the folds 0, 1 of .*--folds"):
        ids("val")
    with pytest.raises(RecipeError, match=r"--part val: .* has no such cases in fold none"):
        ids("val", "none")


def test_a_dataset_without_a_test_part_says_how_to_make_one(tmp_path) -> None:
    root = dataset(tmp_path, {"train": ["a"], "val": ["b"]})
    with pytest.raises(
        RecipeError, match=r"--part test: .* has no such cases in fold 0\. Prepare it with e\.g\. --split"
    ):
        entries_of_part(root, "test")


@pytest.mark.parametrize(
    ("members", "folds"),
    [
        ([{"run": "a", "checkpoints": {"fold_1": "x", "fold_0": "y"}}], [0, 1]),
        ([{"checkpoints": {"fold_none": "x"}}, {"checkpoints": {"fold_2": "x"}}], [2, "none"]),
        ([3, {"checkpoints": 4}], []),
        (None, []),
    ],
)
def test_the_folds_behind_predictions_are_those_of_their_records(members, folds, tmp_path) -> None:
    record = {"version": "0.2.0", "settings": {"members": members}, "cases": {}, **provenance()}
    write_json(tmp_path / "masks" / "run_1_of_2.json", record)
    write_json(tmp_path / "preds.run.json", record)
    assert folds_behind(tmp_path / "masks") == folds_behind(tmp_path / "preds.csv") == folds
    assert folds_behind(tmp_path / "others.csv") == []


@pytest.mark.parametrize(
    ("fold", "line"),
    [
        ({"train": ["a", "b"], "val": ["b"]}, "has cases in two places: b"),
        ({"train": ["a"], "val": ["b"], "test": ["c"]}, "splits subject p: a is in train, c in test"),
        ({"train": ["a", "z"], "val": ["b"]}, "names cases that the dataset does not have: z"),
    ],
)
def test_a_splits_file_edited_by_hand_is_checked_for_a_part_too(tmp_path, fold, line) -> None:
    root = dataset(tmp_path, fold)
    index = read_json(root / "dataset.json")
    index["group_by"] = "subject"
    index["cases"][0]["subject"] = index["cases"][2]["subject"] = "p"
    write_json(root / "dataset.json", index)
    with pytest.raises(DatasetError, match=rf"splits\.json: folds\.0: {line}"):
        entries_of_part(root, "val")
