"""Options that do not apply to the predictions are rejected by name."""

from pathlib import Path

import numpy as np
import pytest

from mambamed import api
from mambamed.errors import RecipeError
from mambamed.evaluation import SCORERS, scorer_of
from mambamed.evaluation.options import EvaluateOptions
from mambamed.io.points import write_points
from mambamed.io.probabilities import Probabilities, write_probabilities

PREDICTIONS = Path("predictions")


@pytest.mark.parametrize(
    ("task", "given", "line"),
    [
        (
            "classification",
            {"metrics": "dice"},
            "--metrics applies to predictions of another task, but predictions contains class probabilities. "
            "Remove the option.",
        ),
        (
            "landmarks",
            {"hd95": "pooled", "resample": True},
            "--hd95, --resample apply to predictions of another task, but predictions contains landmarks. "
            "Remove the options.",
        ),
        ("segmentation", {"table": "landmarks"}, "contains segmentation masks. Use --table brats."),
        ("classification", {"table": "brats"}, "Use --table classification."),
    ],
)
def test_an_option_of_another_task_is_rejected(task, given, line) -> None:
    with pytest.raises(RecipeError) as caught:
        scorer_of(task).check(EvaluateOptions(**given), PREDICTIONS)
    assert str(caught.value).endswith(line)


@pytest.mark.parametrize("task", SCORERS)
def test_options_that_apply_are_accepted(task) -> None:
    scorer = scorer_of(task)
    scorer.check(EvaluateOptions(), PREDICTIONS)
    scorer.check(EvaluateOptions(table=scorer.table, worst=3, workers=2), PREDICTIONS)
    every = {name: "given" for name in scorer.options}
    scorer.check(EvaluateOptions(**every), PREDICTIONS)


def test_a_protocol_excludes_the_rules_that_it_sets(tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"--protocol nnunet already sets --empty\. Remove one of"):
        api.evaluate(tmp_path, tmp_path, protocol="nnunet", empty="brats")


def test_the_command_asks(tmp_path: Path) -> None:
    write_points(tmp_path / "points" / "a.json", {"tip": (0.0, 0.0, 0.0)})
    with pytest.raises(RecipeError, match="contains landmarks"):
        api.evaluate(tmp_path / "points", tmp_path / "points", metrics="dice")
    probabilities = Probabilities(("a", "b"), ("c",), np.array([[0.5, 0.5]]), 0.5, False)
    write_probabilities(tmp_path / "p.csv", probabilities)
    with pytest.raises(RecipeError, match="contains class probabilities"):
        api.evaluate(tmp_path / "p.csv", tmp_path / "p.csv", table="brats")


@pytest.mark.parametrize("level", [0, 1, 1.5, float("nan")])
def test_a_level_that_is_none_is_refused(tmp_path, level) -> None:
    for verb in (api.evaluate, lambda *paths, ci: api.compare(list(paths), ci=ci)):
        with pytest.raises(RecipeError, match=r"--ci .*: expected a level between 0 and 1"):
            verb(tmp_path, tmp_path, ci=level)
