"""Options that say nothing about what is evaluated are refused, by name."""

from pathlib import Path

import numpy as np
import pytest

from mambamed import api
from mambamed.errors import RecipeError
from mambamed.evaluation.options import check_options
from mambamed.io.points import write_points
from mambamed.io.probabilities import Probabilities, write_probabilities

NONE_GIVEN = {"--metrics": None, "--hd95": None, "--empty": None, "--protocol": None, "--resample": False}


@pytest.mark.parametrize(
    ("kind", "table", "given", "line"),
    [
        (
            "classes",
            None,
            {"--metrics": "dice"},
            "--metrics: about masks, and these are classes; leave it out",
        ),
        ("landmarks", None, {"--hd95": "pooled", "--resample": True}, "--hd95, --resample: about masks"),
        ("masks", "landmarks", {}, "--table landmarks: these are masks; take --table brats"),
        ("classes", "brats", {}, "take --table classification"),
        ("masks", None, {"--protocol": "nnunet", "--empty": "brats"}, "--protocol nnunet decides --empty"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(kind, table, given, line) -> None:
    with pytest.raises(RecipeError) as caught:
        check_options(kind, table, NONE_GIVEN | given)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "table"), [("masks", "brats"), ("landmarks", "landmarks"), ("classes", None)]
)
def test_what_fits_is_taken(kind, table) -> None:
    check_options(kind, table, NONE_GIVEN)
    check_options("masks", None, NONE_GIVEN | {"--protocol": "nnunet", "--metrics": "dice"})


def test_the_command_asks(tmp_path: Path) -> None:
    write_points(tmp_path / "points" / "a.json", {"tip": (0.0, 0.0, 0.0)})
    with pytest.raises(RecipeError, match="these are landmarks"):
        api.evaluate(tmp_path / "points", tmp_path / "points", metrics="dice")
    probabilities = Probabilities(("a", "b"), ("c",), np.array([[0.5, 0.5]]), 0.5, False)
    write_probabilities(tmp_path / "p.csv", probabilities)
    with pytest.raises(RecipeError, match="these are classes"):
        api.evaluate(tmp_path / "p.csv", tmp_path / "p.csv", table="brats")


@pytest.mark.parametrize("level", [0, 1, 1.5, float("nan")])
def test_a_level_that_is_none_is_refused(tmp_path, level) -> None:
    for verb in (api.evaluate, lambda *paths, ci: api.compare(list(paths), ci=ci)):
        with pytest.raises(RecipeError, match=r"--ci .*: give a level between 0 and 1"):
            verb(tmp_path, tmp_path, ci=level)
