"""What a training costs, in words; the times are calculated by hand."""

import math

import pytest

from mambamed.errors import RecipeError
from mambamed.training.costs import check_time, cost_of
from mambamed.training.schedule import Pace


def test_the_hours_are_those_of_all_steps_epochs_and_the_validation() -> None:
    """1000 steps of 3.6 s are 1 h, 10 ends of epochs of 36 s 0.1 h, the validation 0.5 h."""
    cost = cost_of(Pace(3.6, 36.0, 1800.0), 1000, 100, "cpu", 2.5)
    assert cost.training_hours == pytest.approx(1.1) and cost.hours == pytest.approx(1.6)
    assert cost.lines() == [
        "cost on cpu: 3.6 s per step, 1000 steps about 66 min, validation of whole volumes about 30 min, "
        "2.5 GiB of memory"
    ]


def test_more_than_a_day_comes_with_the_way_out() -> None:
    """The sample of a new user: 44 s for each of 250,000 steps are 127 days."""
    cost = cost_of(Pace(44.0, 0.0, 0.0), 250_000, 250, "cpu", math.nan)
    line, advice = cost.lines()
    assert "127 days" in line and "GiB" not in line
    assert "127 days is long" in advice and "--max-hours" in advice and "GPU" in advice


def test_a_time_for_not_even_one_step_and_the_validation_is_refused_with_the_figures() -> None:
    """39 s and 505 s are 0.151 h."""
    with pytest.raises(RecipeError) as raised:
        check_time(Pace(39.0, 0.0, 505.0), 180, "--max-hours")
    assert "one step takes 39 s" in str(raised.value) and "about 8 min" in str(raised.value)
    assert "at least --max-hours 0.16" in str(raised.value)
    check_time(Pace(39.0, 0.0, 505.0), 576, "--max-hours")
