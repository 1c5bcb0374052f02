"""`train` killed at random moments, and given again with --resume."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mambamed.recipe import Recipe, dump_recipe
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from tests.kills import appears, contents, outlive_kills, start
from tests.training.small_run import CONVOLUTIONS, small_recipe

# They hold times (the last checkpoint the seconds of the training) or, summary.json, the path of the folder.
TIMED = {"run.json", "train.log", "log.csv", "progress.png", "checkpoint_last.safetensors", "summary.json"}
_FACTS_OF_TIME = {"seconds", "history"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


def arguments(recipe: Recipe, prepared: Path, folder: Path) -> list[str]:
    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    return ["train", str(file), "-d", str(prepared), "--device", "cpu", "--deterministic", "-q"]


def assert_same_weights(one: Path, other: Path) -> None:
    """All that the last checkpoint holds but seconds: weights, average, optimizer, counters."""
    a, b = (read_checkpoint(Run.open(root).checkpoint(0, "last")) for root in (one, other))
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    counted = [{k: v for k, v in c.facts["counters"].items() if k not in _FACTS_OF_TIME} for c in (a, b)]
    assert counted[0] == counted[1]


def outlive(recipe: Recipe, prepared: Path, folder: Path, count: int, kinds):
    asked = arguments(recipe, prepared, folder)

    def command(out: Path) -> list[str]:
        return [*asked, "-o", str(out)]

    trials = outlive_kills(
        command,
        folder,
        count,
        again=lambda out: [*command(out), "--resume"],
        differ=TIMED,
        kinds=kinds,
    )
    for number in range(count):
        assert_same_weights(folder / "whole", folder / f"killed_{number}")
    return trials


def test_train_killed_at_some_moments_ends_bit_identical(prepared, tmp_path) -> None:
    recipe = small_recipe(CONVOLUTIONS, epochs=3, steps_per_epoch=5)
    trials = outlive(recipe, prepared, tmp_path, 2, (signal.SIGKILL, signal.SIGTERM))
    assert any(trial.hit for trial in trials)


@pytest.mark.slow
def test_train_killed_at_10_moments_ends_bit_identical(prepared, tmp_path) -> None:
    recipe = small_recipe(epochs=6, steps_per_epoch=10)
    trials = outlive(recipe, prepared, tmp_path, 10, (signal.SIGKILL,))
    assert sum(trial.hit for trial in trials) >= 8


@pytest.mark.slow
def test_one_training_killed_10_times_ends_bit_identical(prepared, tmp_path) -> None:
    """Again and again, each time some way further."""
    asked = arguments(small_recipe(epochs=6, steps_per_epoch=10), prepared, tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start([*asked, "-o", str(whole)]).wait(600) == 0
    random = np.random.default_rng(0)
    for _ in range(10):
        process = start([*asked, "-o", str(killed), "--resume"])
        appears(killed / "fold_0" / "checkpoint_last.safetensors", process)
        try:
            process.wait(random.uniform(2, 9))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start([*asked, "-o", str(killed), "--resume"]).wait(600) == 0
    assert_same_weights(whole, killed)
    assert contents(whole, TIMED) == contents(killed, TIMED)
