import pytest

from mambamed.errors import RecipeError
from mambamed.preparation.options import with_options
from mambamed.recipe import Split


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
        ({"folds": 5, "fractions": "7:1:2"}, "--folds and --split exclude each other. Give one of them."),
        ({"fractions": "7"}, "--split 7: expected train:val:test or train:val. Write e.g. 7:1:2 or 8:2."),
        (
            {"fractions": "7:x:2"},
            "--split 7:x:2: expected train:val:test or train:val. Write e.g. 7:1:2 or 8:2.",
        ),
        ({"folds": 1}, "--folds: Input should be greater than or equal to 2"),
        ({"seed": -1}, "--seed: Input should be greater than or equal to 0"),
        (
            {"fractions": "7:1:2", "test_cases": "c1"},
            "--folds, --split or --test-cases: test and test_cases exclude each other. Remove one of them.",
        ),
    ],
)
def test_options_that_cannot_be_are_one_line(options, line) -> None:
    with pytest.raises(RecipeError) as caught:
        with_options(Split(), **options)
    assert str(caught.value) == line


def test_test_cases_may_be_longer_than_a_file_name() -> None:
    cases = [f"case_{number:03d}" for number in range(60)]
    assert with_options(Split(), test_cases=",".join(cases)).test_cases == tuple(cases)
