"""The table of tasks is what the schema accepts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mambamed.recipe import Recipe
from mambamed.recipe.tasks import TASKS


def test_the_schema_lists_the_tasks_of_the_table() -> None:
    assert Recipe.model_json_schema()["properties"]["task"]["enum"] == list(TASKS)
    for task in TASKS:
        assert Recipe.model_validate({"task": task, "network": {"name": "nnmamba"}}).task == task
    with pytest.raises(ValidationError, match="'segmentation', 'landmarks' or 'classification'"):
        Recipe.model_validate({"task": "registration", "network": {"name": "nnmamba"}})
