"""What a recipe says of landmarks is checked when it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mambamed.documents.manifest import DatasetManifest, agreed_manifest
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe


def recipe(dataset: dict[str, Any] | None = None, measures: dict[str, Any] | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "task": "landmarks",
            "network": {"name": "nnmamba"},
            "dataset": {"landmarks": ["nose", "left", "right"], **(dataset or {})},
            "measures": measures or {},
        }
    )


def test_pairs_and_measures_of_known_landmarks_are_taken() -> None:
    taken = recipe(
        {"landmark_pairs": [["left", "right"]]},
        {"width": ["left", "right"], "angle": ["left", "nose", "right"]},
    )
    assert taken.dataset.mirror_pairs == (("left", "right"),)  # landmark_pairs is its earlier name
    assert taken.measures["angle"] == ("left", "nose", "right")


@pytest.mark.parametrize(
    ("dataset", "measures", "fact"),
    [
        ({"landmark_pairs": [["left", "chin"]]}, {}, r"mirror_pairs\n  chin not in"),
        ({"mirror_pairs": [["left", "right"], ["right", "nose"]]}, {}, "occurs in two pairs"),
        ({"mirror_pairs": [["left", "background"]]}, {}, "background has no partner on the other side"),
        ({"mirror_pairs": [], "landmark_pairs": []}, {}, "the earlier name of mirror_pairs"),
        ({}, {"width": ["left", "chin"]}, r"measures\.width\n  chin not in"),
        ({}, {"width": ["left"]}, "got 1. Give two for a distance"),
    ],
)
def test_a_mistake_is_reported(dataset, measures, fact) -> None:
    with pytest.raises(ValidationError, match=fact):
        recipe(dataset, measures)


def test_a_recipe_may_ask_for_some_landmarks_of_a_dataset_in_its_own_order() -> None:
    manifest = DatasetManifest(
        name="heads", channels={"a": "mri"}, landmarks=("left", "chin", "nose", "right")
    )
    assert agreed_manifest(manifest, recipe(), choose=True).landmarks == ("nose", "left", "right")
    with pytest.raises(RecipeError, match=r"dataset\.landmarks \['nose', 'right'\] are not among"):
        agreed_manifest(
            DatasetManifest(name="ears", channels={"a": "mri"}, landmarks=("left",)), recipe(), choose=True
        )
