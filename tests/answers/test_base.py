"""A model of another task is rejected with the command that runs it, also for a task that has none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mambamed.answers.base import ANSWERS, answer_class, check_task
from mambamed.errors import ModelError


def ensemble(task: str) -> Any:
    return SimpleNamespace(run=SimpleNamespace(root="runs/x", recipe=SimpleNamespace(task=task)))


def test_every_answer_has_a_command() -> None:
    verbs = [answer_class(task).verb for task in ANSWERS]
    assert verbs == ["predict", "landmarks", "classify"]


@pytest.mark.parametrize("task", ANSWERS)
def test_the_wrong_command_names_the_right_one(task) -> None:
    for other in ANSWERS:
        if other == task:
            check_task(ensemble(task), answer_class(other))
            continue
        with pytest.raises(ModelError, match=f"Use 'mambamed {answer_class(task).verb}'"):
            check_task(ensemble(task), answer_class(other))


def test_a_task_without_a_command_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"runs/x: is a regression model, which predict cannot run\. Update"):
        check_task(ensemble("regression"), answer_class("segmentation"))
