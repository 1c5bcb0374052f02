"""Tables of class probabilities: what is written comes back, and no spreadsheet runs it."""

from pathlib import Path

import numpy as np
import pytest

from mambamed.errors import DatasetError
from mambamed.io.probabilities import Probabilities, read_probabilities, write_probabilities


def table(**changes) -> Probabilities:
    values = {
        "classes": ("NC", "AD"),
        "cases": ("a", "b", "c"),
        "values": np.array([[0.9, 0.1], [1 / 3, 2 / 3], [0.6, 0.4]]),
        "threshold": 0.4,
        "calibrated": True,
    }
    return Probabilities(**(values | changes))


def test_a_table_survives_a_round_trip(tmp_path) -> None:
    write_probabilities(tmp_path / "p.csv", table())
    back = read_probabilities(tmp_path / "p.csv")
    assert np.array_equal(back.values, table().values)
    assert (back.classes, back.cases, back.threshold, back.calibrated) == (
        ("NC", "AD"), ("a", "b", "c"), 0.4, True,
    )  # fmt: skip


def test_the_positive_class_is_answered_from_the_threshold_on() -> None:
    assert table().labels == ("NC", "AD", "AD")
    assert table(threshold=None).labels == ("NC", "AD", "NC")


def test_names_that_a_spreadsheet_would_run_are_escaped_and_come_back(tmp_path) -> None:
    risky = table(cases=('=HYPERLINK("x")', "-rf", "'t"), classes=("@no", "+yes"))
    write_probabilities(tmp_path / "p.csv", risky)
    cells = [line.split(",")[0].strip('"') for line in (tmp_path / "p.csv").read_text().splitlines()]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    back = read_probabilities(tmp_path / "p.csv")
    assert back.cases == risky.cases
    assert back.classes == risky.classes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case,label\na,x\n", "expected a column 'case'"),
        ("case,probability_a,probability_b\n", "contains no cases"),
        ("case,probability_a,probability_b\nx,0.5,0.6\n", "sum to 1.1"),
        ("case,probability_a,probability_b\nx,0.5,oops\n", "'oops'"),
        ("case,probability_a,probability_b\nx,-0.5,1.5\n", "'-0.5'"),
        ("case,probability_a,probability_b\nx,nan,1\n", "'nan'"),
        ("case,probability_a,probability_b\nx,0.5,0.5\nx,0.5,0.5\n", "duplicate case x"),
        ("case,probability_a,probability_b,threshold\nx,0.5,0.5,high\n", "'high'"),
        (
            "case,probability_a,probability_b,threshold\nx,0.5,0.5,0.1\ny,1,0,0.2\n",
            "threshold: several",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, says) -> None:
    path: Path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=says):
        read_probabilities(path)
