"""`train` on a small prepared dataset, from recipe to scored volumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.evaluation import evaluate
from mambamed.io.documents import read_json
from mambamed.io.lock import folder_lock
from mambamed.recipe import Recipe
from mambamed.runs import Run, load_network, read_checkpoint
from mambamed.runs.listing import list_runs
from mambamed.training import train
from mambamed.training.extend import extend
from mambamed.training.patches import ValidationPatches


def small_recipe(**training) -> Recipe:
    settings = {
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "ema": 0.5,
        "validation_patches": 2,
        **training,
    }
    network = {"name": "nnmamba", "channels": 4, "head": "wide"}
    return Recipe.model_validate(
        {"name": "small", "network": network, "training": settings, "inference": {"tta": "none"}}
    )


def test_a_training_writes_what_the_house_promises_and_its_scores_agree_with_evaluate(prepared, tmp_path):
    summary = train(small_recipe(), prepared=prepared, output=tmp_path / "run", device="cpu")
    (fold,) = summary.folds
    folder = tmp_path / "run" / "fold_0"
    for name in ("log.csv", "progress.png", "train.log", "cases.csv", "summary.json"):
        assert (folder / name).stat().st_size > 0, name
    assert fold.steps == fold.planned_steps == 6 and fold.stopped is None and summary.faults == ()
    run = Run.open(tmp_path / "run")
    assert run.folds == [0] and run.plan.patch_size == (16, 16, 16)
    recorded = run.recorded(0)
    assert recorded["steps"] == 6 and "torch" in recorded["sessions"][0]["versions"]
    assert "scan backend" in recorded["sessions"][0]["scan_backend"]
    cases = [path.name.removesuffix(".nii.gz") for path in (folder / "validation").iterdir()]
    again = evaluate(
        folder / "validation",
        prepared.parent / "labelsTr",
        labels={"background": 0, "one": 1, "two": 2},
        metrics=("dice",),
        cases=cases,
    )
    for found in again.summaries:
        assert fold.scores[found.region] == pytest.approx(found.mean, abs=1e-9)
    for case in cases:
        mask, image = (
            nib.load(place / f"{case}.nii.gz")
            for place in (folder / "validation", prepared.parent / "imagesTr")
        )
        assert mask.shape == image.shape and np.allclose(mask.affine, image.affine)
    network, _ = load_network(tmp_path / "run", 0)
    assert not network.training and network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_a_finished_training_is_not_done_again_and_never_overwritten(prepared, tmp_path):
    recipe = small_recipe(epochs=1)
    first = train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    before = (tmp_path / "fold_0" / "checkpoint_last.safetensors").read_bytes()
    with pytest.raises(RecipeError, match=r"--resume goes on, another -o starts anew"):
        train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    again = train(recipe, prepared=prepared, output=tmp_path, device="cpu", resume=True)
    assert again.folds[0].scores == first.folds[0].scores
    assert (tmp_path / "fold_0" / "checkpoint_last.safetensors").read_bytes() == before


def test_a_dry_run_tells_the_cost_and_writes_nothing(prepared, tmp_path):
    summary = train(small_recipe(), prepared=prepared, output=tmp_path / "run", device="cpu", dry_run=True)
    cost = summary.dry_run
    assert cost is not None and cost.patch_size == (16, 16, 16) and cost.batch_size == 2
    assert sum(cost.parts.values()) == cost.parameters > 0 and cost.gflops > 0 and cost.loss > 0
    assert not (tmp_path / "run").exists()


def test_weights_of_another_run_are_a_start(prepared, tmp_path):
    recipe = small_recipe(epochs=1)
    train(recipe, prepared=prepared, output=tmp_path / "a", device="cpu")
    train(recipe, prepared=prepared, output=tmp_path / "b", device="cpu", fold="1", init_from=tmp_path / "a")
    log = (tmp_path / "b" / "fold_1" / "train.log").read_text()
    assert "checkpoint_best.safetensors" in log and "tensors" in log


def test_a_stop_file_ends_it_and_resume_finishes(prepared, tmp_path):
    recipe = small_recipe()
    (tmp_path / "STOP").touch()
    stopped = train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    assert stopped.folds[0].stopped == "STOP file found" and stopped.folds[0].steps == 1
    assert "--resume" in stopped.next_command
    whole = train(recipe, prepared=prepared, output=tmp_path, device="cpu", resume=True)
    assert whole.folds[0].steps == 6 and whole.folds[0].scores


@pytest.mark.parametrize("fold", ["7", "-1", "x"])
def test_a_fold_that_is_not_there_is_refused(prepared, tmp_path, fold):
    with pytest.raises(RecipeError, match="has folds 0 to 4"):
        train(small_recipe(), prepared=prepared, output=tmp_path / "run", fold=fold, device="cpu")


def test_without_a_dataset_the_way_out_is_named(tmp_path):
    with pytest.raises(RecipeError, match="give -d PREPARED"):
        train(small_recipe(), output=tmp_path / "run")


_COMMAND = """
import sys
from pathlib import Path
from mambamed.recipe import load_recipe
from mambamed.training import train
from mambamed.training.extend import extend
recipe, prepared, run = sys.argv[1:]
train(load_recipe(recipe), prepared=Path(prepared), output=Path(run), device="cpu", resume=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_training_killed_at_random_moments_ends_bit_identical(prepared, tmp_path):
    from mambamed.recipe import dump_recipe

    recipe = small_recipe(epochs=6, steps_per_epoch=10)
    train(recipe, prepared=prepared, output=tmp_path / "whole", device="cpu")
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-c", _COMMAND, str(file), str(prepared), str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    random = np.random.default_rng(0)
    last = tmp_path / "killed" / "fold_0" / "checkpoint_last.safetensors"
    for _ in range(10):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not last.exists():
            time.sleep(0.05)
        time.sleep(random.uniform(0.5, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True)
    one, other = (
        read_checkpoint(tmp_path / name / "fold_0" / "checkpoint_last.safetensors").tensors
        for name in ("whole", "killed")
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    results = [read_json(tmp_path / n / "fold_0" / "summary.json")["mean"] for n in ("whole", "killed")]
    assert results[0] == results[1]


def test_an_extended_run_equals_one_that_was_as_long_from_the_start(prepared, tmp_path):
    """With a rate that does not depend on the length, to the last bit; killed in between as well."""
    constant = {"schedule": {"name": "constant"}}
    train(small_recipe(epochs=1, **constant), prepared=prepared, output=tmp_path / "a", device="cpu")
    with pytest.raises(RecipeError, match="has 1 epochs, --epochs 0 would shorten it"):
        extend(tmp_path / "a", 0)
    (tmp_path / "a" / "STOP").touch()
    stopped = extend(tmp_path / "a", 3, device="cpu")
    assert stopped.folds[0].stopped and stopped.folds[0].steps == 4
    longer = extend(tmp_path / "a", 3, device="cpu")
    train(small_recipe(epochs=3, **constant), prepared=prepared, output=tmp_path / "b", device="cpu")
    assert longer.folds[0].steps == longer.folds[0].planned_steps == 9
    assert Run.open(tmp_path / "a").recipe.training.epochs == 3
    one, other = (read_checkpoint(Run.open(tmp_path / name).checkpoint(0, "last")) for name in "ab")
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    again = extend(tmp_path / "a", 3, device="cpu")
    assert again.folds[0].scores == longer.folds[0].scores


def test_training_ends_early_where_no_epoch_is_better(prepared, tmp_path, monkeypatch):
    recipe = small_recipe(epochs=9, steps_per_epoch=1, patience=2, ema=0, optimizer={"lr": 1e-30})
    monkeypatch.setattr(ValidationPatches, "score", lambda *_: (1.0, {"one": 0.5, "two": 0.5}))
    summary = train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    rows = (tmp_path / "fold_0" / "log.csv").read_text().splitlines()
    # All epochs score the same: the first is the best, and two more are waited for.
    assert summary.folds[0].steps == 3 and len(rows) == 1 + 3
    assert "training ends here" in (tmp_path / "fold_0" / "train.log").read_text()
    assert train(recipe, prepared=prepared, output=tmp_path, device="cpu", resume=True).folds[0].scores


def test_runs_are_listed_with_state_and_best_score(prepared, tmp_path):
    train(small_recipe(epochs=1), prepared=prepared, output=tmp_path / "one", device="cpu")
    two = tmp_path / "deeper" / "two"
    two.mkdir(parents=True)
    (two / "STOP").touch()
    train(small_recipe(), prepared=prepared, output=two, device="cpu")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.yaml").write_text("task: [")
    found = list_runs(tmp_path)
    assert len(found.faults) == 1 and "broken" in found.faults[0]
    second, first = found.runs  # by name
    assert (first.run, first.state, first.epoch, first.epochs) == (tmp_path / "one", "done", 1, 1)
    assert first.score_name == "dice" and 0 <= first.score <= 1
    assert (second.run, second.state, second.epoch, second.score) == (two, "stopped", 0, None)
    with folder_lock(two / "fold_0"):
        assert list_runs(two).runs[0].state == "training"
