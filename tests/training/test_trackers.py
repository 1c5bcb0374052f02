"""Curves in TensorBoard and Weights & Biases, if asked for; a tracker that fails harms no training."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mambamed.errors import RecipeError
from mambamed.training import train
from mambamed.training.trackers import check_trackers, open_trackers, scalars
from tests.training.small_run import CONVOLUTIONS, small_recipe
from tests.training.tiny import Spoken, Undisturbed, tiny_loop, tiny_recipe


def test_a_package_that_is_missing_is_named_before_anything_is_done(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = {"prepared": prepared, "output": tmp_path / "run", "device": "cpu"}
    with pytest.raises(
        RecipeError, match=r"tensorboard is not installed; pip install 'mambamed\[tensorboard\]"
    ):
        train(small_recipe(CONVOLUTIONS), log=["tensorboard"], **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="--log mlflow: choose from tensorboard, wandb"):
        check_trackers(["mlflow"])


def test_a_row_is_told_by_names_that_group_and_without_what_is_nan():
    row = {
        "epoch": 1,
        "loss": 0.5,
        "validation_loss": math.nan,
        "dice": 0.7,
        "dice_left lung": 0.6,
        "skipped": 0,
    }
    assert scalars(row, "dice") == {
        "loss/training": 0.5,
        "dice/mean": 0.7,
        "dice/left lung": 0.6,
        "skipped": 0.0,
    }


def trained_with(name, folder, stops=None):
    """Train the tiny loop under a tracker; a second call with the same folder goes on."""
    loop = tiny_loop(folder, tiny_recipe(epochs=3 if stops is None else stops))
    last = loop.run.checkpoint(0, "last")
    if last.is_file():
        loop.state.restore(last)
    journal = loop.journal
    journal.follow(open_trackers([name], loop.run, 0, len(loop.state.counters.history), journal.say))
    loop.go(Undisturbed())
    journal.close()
    return loop


def test_tensorboard_gets_every_epoch_once_also_of_a_resumed_training(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained_with("tensorboard", tmp_path, stops=2)
    loop = trained_with("tensorboard", tmp_path)
    events = reading.EventAccumulator(str(tmp_path / "fold_0" / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss/training", "loss/validation", "dice/mean", "dice/one", "learning_rate", "seconds"} <= names
    history = loop.state.counters.history
    losses = events.Scalars("loss/training")
    assert [event.step for event in losses] == [row["epoch"] for row in history] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx([row["loss"] for row in history])
    assert any("tensorboard --logdir" in line for line in loop.journal.progress.lines)


class Wandb(SimpleNamespace):
    """Stands for the package: remembers what it was told, and is as out of reach as one likes."""

    def __init__(self, reachable: bool = True, breaks: bool = False) -> None:
        super().__init__(begun=[], rows=[], finished=0)
        self._reachable, self._breaks = reachable, breaks

    def Settings(self, **settings):  # noqa: N802
        return settings

    def init(self, **wishes):
        self.begun.append(wishes)
        if wishes["mode"] == "online" and not self._reachable:
            raise ConnectionError("no route to host")
        return self

    dir = str(Path("somewhere") / "files")

    def log(self, row, step):
        if self._breaks:
            raise OSError("disk full")
        self.rows.append((step, row))

    def finish(self):
        self.finished += 1


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """No key of W&B is known."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return monkeypatch


def test_wandb_is_offline_without_a_key_or_a_connection_and_resumes_its_run(tmp_path, nobody):
    package = Wandb(reachable=False)
    nobody.setitem(sys.modules, "wandb", package)
    loop = trained_with("wandb", tmp_path, stops=2)
    nobody.setenv("WANDB_API_KEY", "some")
    trained_with("wandb", tmp_path)
    assert [wishes["mode"] for wishes in package.begun] == ["offline", "online", "offline"]
    assert len({wishes["id"] for wishes in package.begun}) == 1 and package.finished == 2
    assert [step for step, _ in package.rows] == [1, 2, 3]
    assert package.rows[0][1]["loss/training"] == loop.state.counters.history[0]["loss"]
    assert package.begun[0]["config"]["training"]["epochs"] == 2
    assert any("wandb: offline; 'wandb sync somewhere'" in line for line in loop.journal.progress.lines)


def test_an_id_of_wandb_that_cannot_be_is_not_passed_on(tmp_path, nobody):
    package = Wandb()
    nobody.setitem(sys.modules, "wandb", package)
    known = tmp_path / "fold_0" / "wandb_id.txt"
    known.parent.mkdir()
    known.write_text("../entity/\x1b[2J" + "x" * 100_000)
    loop = trained_with("wandb", tmp_path)
    assert package.begun == [] and loop.state.counters.step == 12
    (said,) = [line for line in loop.journal.progress.lines if "log wandb: failed" in line]
    assert f"{known}: expected the id of a run of W&B, got '../entity/" in said and len(said) < 500


def test_a_tracker_that_fails_is_left_and_the_training_goes_on(tmp_path, nobody):
    nobody.setitem(sys.modules, "wandb", Wandb(breaks=True))
    loop = trained_with("wandb", tmp_path)
    assert loop.state.counters.step == 12
    said = [line for line in loop.journal.progress.lines if "log wandb: failed" in line]
    assert said == ["log wandb: failed (OSError: disk full); the training goes on"]


def test_a_tracker_that_cannot_be_opened_says_so(tmp_path, nobody):
    package = Wandb()
    package.init = lambda **wishes: 1 / 0
    nobody.setitem(sys.modules, "wandb", package)
    spoken = Spoken()
    run = tiny_loop(tmp_path, tiny_recipe()).run
    (tracker,) = open_trackers(["wandb"], run, 0, 0, spoken.say)
    tracker.row(1, {"loss": 0.5})
    tracker.close()
    assert len(spoken.lines) == 1 and "division by zero" in spoken.lines[0]
