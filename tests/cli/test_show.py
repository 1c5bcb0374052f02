"""Tables on a narrow terminal: no number is broken, text is aligned left, recipes take one line each."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mambamed.answers.classification import ClassifySummary
from mambamed.cli import show
from mambamed.evaluation.result import Evaluation
from mambamed.io.probabilities import Probabilities
from mambamed.recipe import RecipeLine
from mambamed.report.tables import Table

NUMBERS = ["0.8765 ± 0.0123 (n=12)", "-0.012345 to 0.021444", "+0.001143"]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of this width."""

    def of(columns):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def printed(capsys, headers, rows):
    show.evaluate(Evaluation(table=Table("3 cases", headers, rows), settings={}))
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_number_is_broken_and_no_line_is_too_long(terminal, capsys, columns) -> None:
    terminal(columns)
    headers = ["region", *(f"metric {k} [mm]" for k in range(11))]
    rows = [[name, *(NUMBERS[k % 3] for k in range(11))] for name in ("left_anterior", "tumor core")]
    text = printed(capsys, headers, rows)
    assert max(map(len, text.splitlines())) <= columns
    words = set(re.findall(r"[^\s│┃]+", text))
    assert {word for number in NUMBERS for word in number.split()} <= words
    assert text.count("┏") > 1  # columns that do not fit follow below
    assert text.count("3 cases") == 1


def test_text_is_left_and_numbers_are_right(terminal, capsys) -> None:
    terminal(80)
    rows = [["a", "short", "0.5"], ["b", "a longer sentence about what was found", "12.25"]]
    text = printed(capsys, ["check", "finding", "score"], rows)
    assert re.search(r"│ short +│ +0\.5 │", text)
    assert re.search(r"│ 12\.25 │", text)


def test_a_pipe_receives_every_cell_whole(capsys, monkeypatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = printed(capsys, ["region", "path"], [["a", "/".join(["folder"] * 60)]])
    assert "/".join(["folder"] * 60) in text
    assert len(text.splitlines()) == 6  # the title, four lines around the row, and the row


def test_a_recipe_is_one_line(capsys) -> None:
    headline = "Hippocampus, nnMamba v2: " + "a long description " * 10
    lines = [RecipeLine("hippocampus_nnmamba", "segmentation", "nnmamba", "hippocampus", headline)]
    show.recipes_list(lines)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_classify_says_from_which_probability_a_class_is_predicted(tmp_path, capsys) -> None:
    rows = Probabilities(("left", "right"), ("a",), np.array([[0.356, 0.644]]), 0.646, True)
    show.classify(ClassifySummary(tmp_path, rows, None, 0, (), 1.0, "mambamed evaluate"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("left 1, right 0; calibrated, 1 s")
    assert lines[1] == '"right" is predicted if its probability is at least 0.646, otherwise "left"'
