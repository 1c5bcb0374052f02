"""One reader of splits: of the file of `--splits`, and of a prepared dataset's splits.json edited by hand."""

import json

import pytest

from mambamed.documents.splits import Splits
from mambamed.errors import DatasetError
from mambamed.preparation.splits import Member, groups_of
from mambamed.preparation.store import PreparedDataset

MEMBERS = {f"c{n}": Member(f"p{n // 2}") for n in range(8)}
FAULTS = [
    ([], "folds: expected at least 1 entry, got 0."),
    ("c0", "folds: expected a valid array, got 'c0'."),
    ([{"train": ["c0"]}], "folds.0.val: missing."),
    ([{"train": ["c0"], "val": ["c2"], "vla": []}], "folds.0.vla: unknown key - did you mean 'val'?"),
    ([{"train": ["c0"], "val": "c2"}], "folds.0.val: expected a valid array, got 'c2'."),
    ([{"train": ["c0"], "val": [2]}], "folds.0.val.0: expected a valid string, got 2."),
    ([{"train": ["c0"], "val": ["c9"]}], "folds.0: names cases that the dataset does not have: c9. Remove"),
    (
        [{"train": ["c0"], "val": ["a\nb"]}],
        "folds.0: names cases that the dataset does not have: 'a\\nb'. Remove",
    ),
    (
        [{"train": ["c0", "c2"], "val": ["c2"]}],
        "folds.0: has cases in two places: c2. Keep each in",
    ),
    ([{"train": [], "val": ["c2"]}], "folds.0.train: expected at least 1 entry, got 0."),
    ([{"train": ["c0"], "val": ["c1"]}], "folds.0: splits subject p0: c0 is in train, c1 in val. Put them"),
]


def read(folder, document, group_by="subject"):
    path = folder / "splits_final.json"
    path.write_text(json.dumps(document))
    return Splits.read_for(path, groups_of(MEMBERS, group_by), group_by)


def test_a_file_of_nnunet_is_taken_as_it_is(tmp_path) -> None:
    folds = [{"train": ["c2", "c3", "c0", "c1"], "val": ["c4", "c5"]}, {"train": ["c4"], "val": ["c0", "c1"]}]
    assert read(tmp_path, folds) == [
        {"train": ["c0", "c1", "c2", "c3"], "val": ["c4", "c5"]},
        {"train": ["c4"], "val": ["c0", "c1"]},
    ]


def test_one_split_with_a_test_set_need_not_be_a_list(tmp_path) -> None:
    fold = {"train": ["c0", "c1"], "val": ["c2", "c3"], "test": ["c4", "c5"]}
    assert read(tmp_path, fold) == [fold]


def test_subjects_may_be_split_if_cases_are_the_groups(tmp_path) -> None:
    fold = {"train": ["c0"], "val": ["c1"]}
    assert read(tmp_path, fold, "case") == [fold]


@pytest.mark.parametrize(("document", "line"), FAULTS)
def test_a_split_that_cannot_be_is_one_line(tmp_path, document, line) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, document)
    assert str(caught.value).startswith(f"{tmp_path / 'splits_final.json'}: {line}")


def dataset(root, splits, group_by):
    entry = {"class": None, "points": None, "shape": [8, 8, 8], "channels": 1, "has_label": False}
    cases = [{"id": case, "subject": member.subject} | entry for case, member in MEMBERS.items()]
    index = {"name": "d", "channels": {"a": "mri"}, "prepared_format": 1, "cases": cases}
    plan = {
        "spacing_mm": [1, 1, 1],
        "shape_median": [8, 8, 8],
        "patch_size": [8, 8, 8],
        "batch_size": 2,
        "crop": "none",
        "normalization": [{"scheme": "zscore"}],
    }
    documents = {"dataset": index | group_by, "plan": plan, "splits": splits}
    for name, document in documents.items():
        (root / f"{name}.json").write_text(json.dumps(document))
    return PreparedDataset.open(root)


@pytest.mark.parametrize(("document", "line"), FAULTS)
def test_a_prepared_dataset_edited_by_hand_is_checked_as_strictly(tmp_path, document, line) -> None:
    with pytest.raises(DatasetError) as caught:
        dataset(tmp_path, document, {"group_by": "subject"})
    assert str(caught.value).startswith(f"{tmp_path / 'splits.json'}: {line}")


def test_a_dataset_of_0_1_0_may_have_been_split_by_cases(tmp_path) -> None:
    fold = {"train": ["c0"], "val": ["c1"]}
    assert dataset(tmp_path, fold, {}).splits == [fold]
    with pytest.raises(DatasetError, match=r"splits\.json: folds\.0: has cases in two places: c0"):
        dataset(tmp_path, [{"train": ["c0"], "val": ["c0"]}], {})


def test_thousands_of_cases_are_grouped_by_a_column_at_once() -> None:
    members = {f"c{n}": Member(f"p{n // 2}", covariates={"site": f"s{n % 3000}"}) for n in range(6000)}
    groups = groups_of(members, "site")
    assert groups["c0"] == groups["c1"] == groups["c3000"] == groups["c3001"] == "p0"
    assert len(set(groups.values())) == 1500
