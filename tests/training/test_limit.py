"""A limit of CPU time: what other programs take does not count, and it holds over several sessions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mambamed import api
from mambamed.errors import RecipeError
from mambamed.progress import Silence
from mambamed.training.limit import TimeLimit
from mambamed.training.training import train
from tests.training.small_run import CONVOLUTIONS, small_recipe


class Busy(Silence):
    """Every step waits, as on a machine that others use; the training is stopped after some."""

    def __init__(self, stop: Path | None = None) -> None:
        self._stop, self._steps = stop, 0

    def advance(self, count: int = 1, **facts: str | float) -> None:
        self._steps += "lr" in facts
        time.sleep(0.02)
        if self._steps == 10 and self._stop is not None:
            self._stop.touch()


def test_waiting_does_not_count_and_a_resumed_training_has_one_limit(prepared, tmp_path) -> None:
    recipe = small_recipe(CONVOLUTIONS, epochs=1000, steps_per_epoch=25)
    options = {"prepared": prepared, "output": tmp_path / "run", "device": "cpu", "resume": True}
    wall, cpu, sessions = time.monotonic(), time.process_time(), []
    for stop in (tmp_path / "run" / "STOP", None):
        limit = TimeLimit.of(None, max_cpu_minutes=3 / 60)
        sessions.append(train(recipe, limit=limit, progress=Busy(stop), **options).folds[0])
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    first, last = sessions
    assert first.stopped and not last.stopped and last.scores
    assert 10 <= first.steps < last.steps == last.planned_steps < recipe.training.steps
    # The steps and ends of epochs fill the limit but for the validation of whole volumes, and no more.
    assert first.seconds < last.seconds and 1.0 < last.seconds <= 3.2
    assert cpu < wall - 0.02 * last.steps * 0.9


def test_what_cpu_time_does_not_measure_is_rejected(prepared, tmp_path) -> None:
    recipe = small_recipe(CONVOLUTIONS)
    with pytest.raises(RecipeError, match=r"--max-cpu-minutes 1e-06: one step takes .* Use at least"):
        train(recipe, prepared=prepared, output=tmp_path, device="cpu", limit=TimeLimit(6e-5, True, 1e9))
    with pytest.raises(RecipeError, match="Give one of them"):
        api.train("hippocampus_nnunet", prepared, max_hours=1, max_cpu_minutes=1)
    with pytest.raises(RecipeError, match="--max-cpu-minutes: needs a recipe"):
        api.train(data=prepared, max_cpu_minutes=1)
    with pytest.raises(RecipeError, match=r"--deterministic: .*Remove --max-cpu-minutes"):
        train(recipe, prepared=prepared, output=tmp_path, deterministic=True, limit=TimeLimit.of(None, 1))


def test_trainings_share_what_is_left() -> None:
    """By hand: 100 s began 40 s ago; 60 s are left for three."""
    for cpu, clock in ((False, time.monotonic), (True, time.process_time)):
        share = TimeLimit(100.0, cpu, clock() - 40).part(3)
        assert share.seconds == pytest.approx(20, abs=0.5) and share.cpu is cpu
        assert TimeLimit(100.0, cpu, clock() - 140).part(3).seconds == 0
