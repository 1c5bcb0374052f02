"""A recipe as commented text is read back with the same values."""

import pytest

from mambamed.recipe import Choice, commented_recipe, parse_recipe
from mambamed.recipe.document import parse_document, value_text


def test_sections_are_nested_and_each_reason_stands_above_its_key() -> None:
    text = commented_recipe(
        ["Mine."],
        [
            Choice("task", "segmentation", "it has labels"),
            Choice("network.name", "nnunet"),
            Choice("training.epochs", 3, "short"),
            Choice("training.augment.mirror", ["x"], "alike"),
        ],
    )
    assert text.splitlines() == [
        "# Mine.",
        "# it has labels",
        "task: segmentation",
        "network:",
        "  name: nnunet",
        "training:",
        "  # short",
        "  epochs: 3",
        "  augment:",
        "    # alike",
        "    mirror: [x]",
    ]
    recipe = parse_recipe(text, "mine")
    assert (recipe.name, recipe.training.epochs, recipe.training.augment.mirror) == ("mine", 3, ("x",))


@pytest.mark.parametrize(
    "name", ["08", "1e3", "yes", "null", "~", "a: b", "# c", "- d", "0.5", "é", "x" * 300]
)
def test_a_text_that_looks_like_something_else_is_read_back_as_text(name) -> None:
    values, _ = parse_document(f"classes: {value_text([name, 'other'])}", "mine")
    assert values["classes"] == [name, "other"]


def test_overrides_apply_to_a_recipe_made_of_text() -> None:
    assert parse_recipe("network: {name: nnunet}", "mine", ["training.epochs=7"]).training.epochs == 7
