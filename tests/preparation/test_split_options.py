import json

import pytest

from mambamed.errors import DatasetError, RecipeError
from mambamed.preparation.split_options import read_splits, with_options
from mambamed.preparation.splits import Member
from mambamed.recipe import Split

MEMBERS = {f"c{n}": Member(f"p{n // 2}") for n in range(8)}


def written(folder, document):
    path = folder / "splits_final.json"
    path.write_text(json.dumps(document))
    return path


def test_a_file_of_nnunet_is_taken_as_it_is(tmp_path) -> None:
    folds = [{"train": ["c2", "c3", "c0", "c1"], "val": ["c4", "c5"]}, {"train": ["c4"], "val": ["c0", "c1"]}]
    assert read_splits(written(tmp_path, folds), MEMBERS) == [
        {"train": ["c0", "c1", "c2", "c3"], "val": ["c4", "c5"]},
        {"train": ["c4"], "val": ["c0", "c1"]},
    ]


def test_one_split_with_a_test_set_need_not_be_a_list(tmp_path) -> None:
    fold = {"train": ["c0", "c1"], "val": ["c2", "c3"], "test": ["c4", "c5"]}
    assert read_splits(written(tmp_path, fold), MEMBERS) == [fold]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ([], "holds no splits"),
        ([{"train": ["c0"]}], 'fold 0 must hold "train" and "val"'),
        ([{"train": ["c0"], "val": ["c9"]}], "names cases that are not there: c9"),
        ([{"train": ["c0", "c2"], "val": ["c2"]}], "has cases in two places: c2"),
        ([{"train": [], "val": ["c2"]}], "fold 0 has no training cases"),
        ([{"train": ["c0"], "val": ["c1"]}], "fold 0 tears subject p0 apart: c0 is in train, c1 in val"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(tmp_path, document, line) -> None:
    with pytest.raises(DatasetError) as caught:
        read_splits(written(tmp_path, document), MEMBERS)
    assert line in str(caught.value)
    assert "splits_final.json" in str(caught.value)


def test_who_insists_may_tear_subjects_apart(tmp_path) -> None:
    fold = {"train": ["c0"], "val": ["c1"]}
    assert read_splits(written(tmp_path, fold), MEMBERS, "case") == [fold]


def test_options_go_before_the_recipe(tmp_path) -> None:
    recipe = Split(folds=3, seed=7)
    assert with_options(recipe) == recipe
    assert with_options(recipe, folds=4).folds == 4
    asked = with_options(recipe, fractions="7:1:2", stratify="class", group_by="site")
    assert (asked.train, asked.val, asked.test) == pytest.approx((0.7, 0.1, 0.2))
    assert (asked.seed, asked.stratify, asked.group_by) == (7, "class", "site")
    (tmp_path / "test.txt").write_text("c1\n\nc2\n")
    assert with_options(recipe, test_cases=str(tmp_path / "test.txt")).test_cases == ("c1", "c2")
    assert with_options(recipe, test_cases="c3, c4").test_cases == ("c3", "c4")
    fractions = Split(train=0.8, val=0.2)
    assert with_options(fractions, folds=5).train is None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"folds": 5, "fractions": "7:1:2"}, "--folds and --split exclude each other; give one of them"),
        ({"fractions": "7"}, "--split 7: write train:val:test as in 7:1:2, or 8:2"),
        ({"fractions": "7:x:2"}, "--split 7:x:2: write train:val:test as in 7:1:2, or 8:2"),
        ({"folds": 1}, "--folds: Input should be greater than or equal to 2"),
        ({"seed": -1}, "--seed: Input should be greater than or equal to 0"),
        (
            {"fractions": "7:1:2", "test_cases": "c1"},
            "--folds, --split or --test-cases: give test or test_cases, not both",
        ),
    ],
)
def test_options_that_cannot_be_are_one_line(options, line) -> None:
    with pytest.raises(RecipeError) as caught:
        with_options(Split(), **options)
    assert str(caught.value) == line
