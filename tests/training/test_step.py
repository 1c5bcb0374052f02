"""Steps that a device decides itself give the same weights, counters and messages as others."""

from __future__ import annotations

import pytest
import torch

from mambamed.errors import RunError
from mambamed.run.checkpoint import read_checkpoint
from mambamed.training.step import Steps
from tests.training.test_loop import NanAt
from tests.training.tiny import StopAfter, Undisturbed, same_numbers, tiny_loop, tiny_recipe


def state_of(loop):
    return read_checkpoint(loop.run.checkpoint(0, "last"))


def assert_same(one, other, average=1e-5):
    """Bits of all but the moving average, whose rounding differs; counters; lines of the log."""
    a, b = state_of(one), state_of(other)
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        if name.startswith("ema.") and average:
            torch.testing.assert_close(tensor, b.tensors[name], rtol=average, atol=average)
        else:
            assert torch.equal(tensor, b.tensors[name]), name
    counters = [
        {k: v for k, v in each.facts["counters"].items() if not k.startswith(("history", "best"))}
        for each in (a, b)
    ]
    assert same_numbers(*counters)
    losses = [[row["loss"] for row in each.facts["counters"]["history"]] for each in (a, b)]
    assert losses[0] == losses[1]
    said = [
        [line for line in loop.journal.progress.lines if "skipped" in line or "back to" in line]
        for loop in (one, other)
    ]
    assert said[0] == said[1]
    assert one.state.scaler.state_dict() == other.state.scaler.state_dict()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("bad", [(), (0, 1), (3, 7, 8, 11)], ids=["none", "first", "ends of epochs"])
def test_a_step_decided_on_the_device_is_the_same_step(tmp_path, optimizer, precision, bad):
    recipe = tiny_recipe(optimizer={"name": optimizer})
    plain, queued = (
        tiny_loop(tmp_path / name, recipe, precision, reader=NanAt(bad), queued=name == "queued")
        for name in ("plain", "queued")
    )
    for loop in (plain, queued):
        assert loop.go(Undisturbed()) is None
        assert loop.state.counters.skipped == len(bad)
    assert_same(plain, queued)


def test_the_tenth_bad_step_rolls_back_as_if_it_was_waited_for(tmp_path):
    recipe = tiny_recipe(epochs=5)
    loops = [
        tiny_loop(
            tmp_path / str(queued),
            recipe,
            "fp16",
            reader=NanAt(range(5, 15), first_stream_only=True),
            queued=queued,
        )
        for queued in (False, True)
    ]
    for loop in loops:
        assert loop.go(Undisturbed()) is None and loop.state.counters.rollbacks == 1
    assert_same(*loops)
    endless = tiny_loop(tmp_path / "endless", tiny_recipe(epochs=50), reader=NanAt(range(1000)), queued=True)
    with pytest.raises(RunError, match="loss not finite"):
        endless.go(Undisturbed())


@pytest.mark.parametrize("stop", [5, 8])
def test_queued_steps_are_resumed_bit_by_bit(tmp_path, stop):
    whole = tiny_loop(tmp_path / "whole", tiny_recipe(), reader=NanAt({3}), queued=True)
    assert whole.go(Undisturbed()) is None
    parts = tiny_loop(tmp_path / "parts", tiny_recipe(), reader=NanAt({3}), queued=True)
    assert parts.go(StopAfter(stop)) == "asked"
    parts = tiny_loop(tmp_path / "parts", tiny_recipe(), reader=NanAt({3}), queued=True)
    parts.state.restore(parts.run.checkpoint(0, "last"))
    assert parts.state.counters.step == stop and parts.state.counters.skipped == 1
    assert parts.go(Undisturbed()) is None
    a, b = state_of(whole), state_of(parts)
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    assert same_numbers(a.facts["counters"], b.facts["counters"])


def test_the_loss_of_a_queued_step_is_read_when_the_next_one_is_queued(tmp_path, monkeypatch):
    loop = tiny_loop(tmp_path, tiny_recipe(epochs=1), queued=True)
    taken, counted, take = [], [], Steps.take

    def watched(self, batches, step, stops=False):
        counted.append(loop.state.counters.loss_count)
        taken.append(step)
        return take(self, batches, step, stops)

    monkeypatch.setattr(Steps, "take", watched)
    assert loop.go(Undisturbed()) is None
    assert taken == [0, 1, 2, 3] and counted == [0, 0, 1, 2]
    assert loop.state.counters.history[0]["step"] == 4


@pytest.mark.parametrize(("name", "able"), [("adam", True), ("sgd", True), ("radam", False)])
def test_only_an_optimizer_with_such_a_form_is_queued(tmp_path, name, able):
    loop = tiny_loop(tmp_path, tiny_recipe(optimizer={"name": name}), queued=True)
    assert loop._steps.queued is able
    assert not tiny_loop(tmp_path / "cpu", tiny_recipe())._steps.queued  # on a CPU nothing is gained
