"""Learning rates against the formulas; how many steps fit."""

from __future__ import annotations

import math

import pytest
import torch

from mambamed.recipe import Schedule
from mambamed.training.schedule import Pace, learning_rate, steps_that_fit, window_count


def rates(steps=100, **settings):
    schedule = Schedule.model_validate(settings)
    return [learning_rate(schedule, 0.1, step, steps) for step in range(steps)]


def test_poly_is_nnunets_formula():
    assert rates(name="poly", power=0.9) == pytest.approx([0.1 * (1 - k / 100) ** 0.9 for k in range(100)])


def test_linear_falls_evenly():
    assert rates(name="linear") == pytest.approx([0.1 * (100 - k) / 100 for k in range(100)])


def test_constant_stays():
    assert rates(name="constant") == [0.1] * 100


def test_cosine_equals_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    assert rates(name="cosine") == pytest.approx(expected, abs=1e-9)


def test_warm_up_rises_linearly_and_the_rest_follows_the_formula():
    got = rates(name="cosine", warmup_steps=20)
    assert got[:20] == pytest.approx([0.1 * (k + 1) / 20 for k in range(20)])
    assert got[20] == pytest.approx(0.1)
    assert got[60] == pytest.approx(0.05 * (1 + math.cos(math.pi / 2)))


def test_a_run_shorter_than_its_warm_up_is_no_fault():
    assert learning_rate(Schedule(name="poly", warmup_steps=10), 0.1, 4, 5) == pytest.approx(0.05)


def test_the_steps_that_fit_leave_time_for_the_validation():
    pace = Pace(step_seconds=0.5, epoch_seconds=10, validation_seconds=60)
    steps = steps_that_fit(pace, done=20, steps_per_epoch=100, seconds_left=1000, most=10**6)
    # by hand: (1000 - 60 - 10) / (0.5 + 10/100) = 1550
    assert steps == 1570


def test_the_recipes_own_length_is_never_exceeded():
    assert steps_that_fit(Pace(0.1, 0, 0), 0, 100, 10_000, most=500) == 500


def test_without_time_the_run_ends_where_it_is():
    assert steps_that_fit(Pace(1, 1, 100), 30, 100, 50, most=500) == 30


def test_windows_are_counted_as_they_are_laid():
    assert window_count((36, 50, 35), (40, 56, 40), 0.5) == 1
    assert window_count((64, 64, 64), (64, 64, 64), 0.5) == 1
    assert window_count((65, 96, 128), (64, 64, 64), 0.5) == 2 * 2 * 3
