"""A model of another task is rejected with the command that runs it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mambamed.answers.base import check_task
from mambamed.errors import ModelError

COMMANDS = {"segmentation": "predict", "landmarks": "landmarks", "classification": "classify"}


def ensemble(task: str) -> Any:
    return SimpleNamespace(run=SimpleNamespace(root="runs/x", recipe=SimpleNamespace(task=task)))


@pytest.mark.parametrize("task", COMMANDS)
def test_the_wrong_command_names_the_right_one(task) -> None:
    for other, command in COMMANDS.items():
        if other == task:
            check_task(ensemble(task), other)
            continue
        with pytest.raises(ModelError, match=f"which {command} cannot run. Use 'mambamed {COMMANDS[task]}'"):
            check_task(ensemble(task), other)
