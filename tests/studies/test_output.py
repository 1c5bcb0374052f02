"""The report of a study: its learning curves. The other files are in `test_running`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mambamed.documents.study import Budget
from mambamed.studies.output import learning_curve


@pytest.fixture
def log(tmp_path) -> Path:
    """Three epochs of 90, 60 and 30 seconds; the second one has no score."""
    (tmp_path / "log.csv").write_text(
        "epoch,step,loss,validation_loss,dice,dice_one,seconds\n"
        "1,10,1,1,0.5,0.5,90\n2,20,1,1,,,60\n3,25,1,1,0.75,0.75,30\n"
    )
    return tmp_path / "log.csv"


def test_a_curve_is_drawn_over_steps_without_a_budget_of_time(log) -> None:
    name, curve = learning_curve(log, Budget(steps=9).clock[1])
    assert name == "dice" and [x for x, _ in curve] == [10, 20, 25]
    assert [y for _, y in curve if not math.isnan(y)] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("budget", "unit", "places"),
    [
        (Budget(cpu_minutes=3), "minutes of CPU time", [1.5, 2.5, 3]),
        (Budget(hours=0.05), "hours", [0.025, 2.5 / 60, 0.05]),
    ],
)
def test_a_curve_of_a_budget_of_time_is_drawn_over_this_time(log, budget, unit, places) -> None:
    """Sums by hand: 90, 150 and 180 seconds."""
    assert budget.clock[0] == unit
    _, curve = learning_curve(log, budget.clock[1])
    assert [x for x, _ in curve] == pytest.approx(places)
