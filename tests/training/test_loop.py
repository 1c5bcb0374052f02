"""The loop: resumed bit by bit, not thrown by NaN, in time."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager

import pytest
import torch

from mambamed.batches.loader import Batch
from mambamed.errors import RunError
from mambamed.run.checkpoint import read_checkpoint
from mambamed.training.schedule import learning_rate
from tests.training.tiny import FP16_SCALE, StopAfter, Undisturbed, same_numbers, tiny_loop, tiny_recipe


def final(loop):
    return read_checkpoint(loop.run.checkpoint(0, "last"))


def assert_same_training(one, other):
    a, b = final(one), final(other)
    assert a.tensors.keys() == b.tensors.keys()
    assert any(name.startswith("optimizer.") for name in a.tensors)
    different = [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])]
    assert different == []
    assert same_numbers(a.facts["counters"], b.facts["counters"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "radam"])
def test_a_training_stopped_within_an_epoch_and_resumed_ends_bit_identical(tmp_path, optimizer):
    recipe = tiny_recipe(optimizer={"name": optimizer})
    whole = tiny_loop(tmp_path / "whole", recipe)
    assert whole.go(Undisturbed()) is None
    stopped = tiny_loop(tmp_path / "parts", recipe)
    assert stopped.go(StopAfter(6)) == "asked"
    resumed = tiny_loop(tmp_path / "parts", recipe)
    resumed.state.restore(resumed.run.checkpoint(0, "last"))
    assert resumed.state.counters.step == 6
    assert resumed.go(Undisturbed()) is None
    assert_same_training(whole, resumed)


class StopsScoring(Undisturbed):
    """Someone asks to stop while the patches of the first epoch are scored."""

    @contextmanager
    def at_once(self):
        yield
        raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [StopAfter(4), StopsScoring()])
def test_a_training_stopped_at_the_end_of_an_epoch_and_resumed_ends_bit_identical(tmp_path, stop):
    """Epochs of four steps: the patches are scored when the training is resumed."""
    recipe = tiny_recipe(epochs=2)
    whole = tiny_loop(tmp_path / "whole", recipe)
    whole.go(Undisturbed())
    stopped = tiny_loop(tmp_path / "parts", recipe)
    assert stopped.go(stop) in {"asked", "interrupted"}
    assert stopped.state.counters.step == 4 and not stopped.state.counters.history
    resumed = tiny_loop(tmp_path / "parts", recipe)
    resumed.state.restore(resumed.run.checkpoint(0, "last"))
    assert resumed.go(Undisturbed()) is None
    assert_same_training(whole, resumed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_killed_at_any_step_and_resumed_ends_bit_identical(tmp_path, precision):
    class Killed(BaseException):
        pass

    def dies_at(step):
        class Dying:
            def __init__(self, reader):
                self._reader = reader

            def batch(self, requests):
                if requests[0].key[-1] == 2 * step:  # the number of the step's first patch
                    raise Killed
                return self._reader.batch(requests)

        return Dying

    recipe = tiny_recipe()
    whole = tiny_loop(tmp_path / "whole", recipe, precision)
    whole.go(Undisturbed())
    for step in (1, 5, 11):
        folder = tmp_path / f"killed_{step}"
        with pytest.raises(Killed):
            tiny_loop(folder, recipe, precision, reader=dies_at(step)).go(Undisturbed())
        resumed = tiny_loop(folder, recipe, precision)
        resumed.state.restore(resumed.run.checkpoint(0, "last"))
        assert resumed.state.counters.step == step // 4 * 4  # the last epoch's end
        resumed.go(Undisturbed())
        assert_same_training(whole, resumed)


class NanAt:
    """Makes the image of some steps NaN, as a fault in the data or an overflow would."""

    def __init__(self, steps, first_stream_only=False):
        self._steps, self._first_only = set(steps), first_stream_only

    def __call__(self, reader):
        self._reader = reader
        return self

    def batch(self, requests) -> Batch:
        batch = self._reader.batch(requests)
        stream, patch = requests[0].key[2], requests[0].key[-1]
        if patch // 2 in self._steps and not (self._first_only and stream):
            batch.image.fill_(math.nan)
        return batch


def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path):
    loop = tiny_loop(tmp_path, tiny_recipe(), reader=NanAt({2, 5}))
    assert loop.go(Undisturbed()) is None
    counters = loop.state.counters
    assert counters.skipped == 2 and counters.step == 12 and counters.rollbacks == 0
    assert loop.state.optimizer.state[loop.state.network.head.weight]["step"] == 10
    for network in (loop.state.network, loop.state.average.network):
        for name, tensor in network.state_dict().items():  # the running statistics too
            assert torch.isfinite(tensor.float()).all(), name
    assert [line for line in loop.journal.progress.lines if "step 2: loss nan" in line and "skipped" in line]


def test_ten_bad_steps_in_a_row_roll_back_to_the_last_checkpoint_with_half_the_rate(tmp_path):
    recipe = tiny_recipe(epochs=5)
    loop = tiny_loop(tmp_path, recipe, reader=NanAt(range(5, 15), first_stream_only=True))
    assert loop.go(Undisturbed()) is None
    counters = loop.state.counters
    # Steps 5..14 of the first stream are bad; epochs end at 8 and 12 within, so the way back leads to 12.
    assert counters.rollbacks == 1 and counters.rate_factor == 0.5 and counters.skipped == 10
    assert counters.step == 20
    assert any("back to step 12" in line for line in loop.journal.progress.lines)
    schedule, base = recipe.training.schedule, recipe.training.optimizer.lr
    expected = 0.5 * learning_rate(schedule, base, 19, 20)
    assert loop.state.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert loop.state.is_finite()


def test_a_roll_back_keeps_the_lowered_scale_of_fp16(tmp_path):
    """The checkpoint of step 0 holds the scale that overflowed; ten overflows halve it ten times."""
    recipe = tiny_recipe(epochs=1, steps_per_epoch=20)
    loop = tiny_loop(tmp_path, recipe, "fp16", reader=NanAt(range(10), first_stream_only=True))
    assert loop.go(Undisturbed()) is None
    assert loop.state.counters.rollbacks == 1
    assert loop.state.scaler.get_scale() == FP16_SCALE / 2**10


def test_a_loss_that_stays_bad_ends_with_one_line(tmp_path):
    loop = tiny_loop(tmp_path, tiny_recipe(epochs=50), reader=NanAt(range(1000)))
    with pytest.raises(RunError, match=r"fold_0: loss not finite .*\. Lower training.optimizer.lr"):
        loop.go(Undisturbed())
    kept = read_checkpoint(loop.run.checkpoint(0, "best")).part("network")  # of the untrained average
    assert kept and all(bool(torch.isfinite(tensor.float()).all()) for tensor in kept.values())


def test_the_best_checkpoint_holds_the_average_and_predicts(tmp_path):
    loop = tiny_loop(tmp_path, tiny_recipe())
    loop.go(Undisturbed())
    best = read_checkpoint(loop.run.checkpoint(0, "best"))
    assert {name.split(".")[0] for name in best.tensors} == {"network"}
    counters = loop.state.counters
    assert best.facts["score"] == counters.best_score == max(row["dice"] for row in counters.history)
    if counters.best_epoch == 3:
        average = loop.state.average.network.state_dict()
        assert all(torch.equal(t, average[n]) for n, t in best.part("network").items())


def test_the_log_has_a_row_an_epoch(tmp_path):
    loop = tiny_loop(tmp_path, tiny_recipe())
    loop.go(Undisturbed())
    lines = (loop.run.fold_folder(0) / "log.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("epoch,step,learning_rate,loss,")
    assert "dice_one" in lines[0] and lines[-1].startswith("3,12,")


def test_each_step_tells_what_a_person_wants_to_see(tmp_path):
    loop = tiny_loop(tmp_path, tiny_recipe())
    loop.go(Undisturbed())
    told, row = loop.journal.progress.facts, loop.state.counters.history[0]
    assert len(told) == 12 and set(told[0]) == {"epoch", "loss", "lr", "patches/s", "GiB"}
    shown = f"{row['dice']:.3f} ({row['dice_one']:.3f} {row['dice_two']:.3f})"
    assert told[4]["dice"] == told[7]["dice"] == shown and told[4]["epoch"] == 2
    assert told[11]["lr"] == pytest.approx(learning_rate(loop.run.recipe.training.schedule, 1e-3, 11, 12))
    assert told[11]["patches/s"] > 0 and 0.01 < told[11]["GiB"] < 100


def test_training_learns(tmp_path):
    recipe = tiny_recipe(
        epochs=4, steps_per_epoch=40, optimizer={"lr": 0.02}, augment={"rotate": 0, "scale": 0}
    )
    loop = tiny_loop(tmp_path, recipe)
    loop.go(Undisturbed())
    history = loop.state.counters.history
    assert history[-1]["loss"] < 0.6 * history[0]["loss"] and loop.state.counters.best_score > 0.8


class Clock:
    """Each look at it takes 40 ms: so does a step, however busy the machine is."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 0.04
        return self._now


def test_the_schedule_is_fitted_into_the_time_and_falls_to_zero_there(tmp_path):
    recipe = tiny_recipe(epochs=1000, steps_per_epoch=25, schedule={"name": "linear"})
    loop = tiny_loop(tmp_path, recipe, clock=Clock())
    loop.state.counters.budget_seconds = 4.0
    assert loop.go(Undisturbed()) is None
    counters = loop.state.counters
    # By hand: 100 steps take 4 s; four ends of epochs and the validation of whole volumes take some of it.
    assert counters.planned and counters.step == counters.steps
    assert 70 <= counters.steps <= 96 and 3.5 < counters.seconds <= 4.2
    first_rate = recipe.training.optimizer.lr
    assert loop.state.optimizer.param_groups[0]["lr"] < 0.1 * first_rate
    assert loop.run.recorded(0)["steps"] == counters.steps
    kept = final(loop).facts["counters"]
    assert kept["steps"] == counters.steps and kept["budget_seconds"] == 4.0


def test_a_plan_that_leaves_no_step_ends_the_training_for_good(tmp_path):
    times = itertools.chain([0.0], itertools.count(2000.0, 0.04))  # the start takes longer than the budget
    recipe = tiny_recipe(epochs=1000, steps_per_epoch=25)
    loop = tiny_loop(tmp_path, recipe, clock=lambda: next(times))
    loop.state.counters.budget_seconds = 1000.0
    loop.state.counters.planned = True
    assert loop.go(Undisturbed()) is None
    counters = loop.state.counters
    assert counters.step == counters.steps == final(loop).facts["counters"]["steps"]
