"""`train` on a small prepared dataset, from recipe to scored volumes."""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import mambamed
from mambamed.answers.segmentation import predict
from mambamed.batches.loader import PatchReader
from mambamed.documents.splits import cases_of
from mambamed.errors import DatasetError, ModelError, RecipeError, RunError
from mambamed.evaluation import evaluate as evaluate_any
from mambamed.evaluation.masks import evaluate
from mambamed.evaluation.options import EvaluateOptions
from mambamed.io.json_files import write_json
from mambamed.io.lock import folder_lock
from mambamed.jobs.job import JobOptions
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import dump_recipe
from mambamed.run.checkpoint import read_checkpoint, write_checkpoint
from mambamed.run.export import export_model
from mambamed.run.folder import Run
from mambamed.run.hub import local_model
from mambamed.run.listing import list_runs
from mambamed.run.model import load_network
from mambamed.ssm import chunked
from mambamed.training import train
from mambamed.training.extend import extend
from mambamed.training.validation_patches import ValidationPatches
from tests.answers.stubs import OPTIONS, stub_run
from tests.run.hub_server import go_offline, local_hub
from tests.training.small_run import CONVOLUTIONS, small_recipe


def test_the_backend_of_the_option_computes_the_scans_and_is_recorded(prepared, monkeypatch, tmp_path):
    scans, forward = [], chunked.scan_forward
    monkeypatch.setattr(chunked, "scan_forward", lambda *given: (scans.append(1), forward(*given))[1])
    recipe, run = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(dump_recipe(small_recipe(epochs=1, steps_per_epoch=1)))
    mambamed.train(recipe, prepared, run, fold="none", device="cpu", scan="chunked")
    (session,) = Run.open(run).recorded("none")["sessions"]
    assert scans and session["scan_backend"] == "scan backend chunked: set by --scan"


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
    trained_on = len(PreparedDataset.open(prepared).splits[0]["train"])
    assert (recorded["training_cases"], recorded["training_subjects"]) == (trained_on, trained_on)
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
    network = load_network(run, 0)
    assert not network.training and network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_a_finished_training_is_not_done_again_and_never_overwritten(prepared, tmp_path):
    recipe = small_recipe(epochs=1)
    first = train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    before = (tmp_path / "fold_0" / "checkpoint_last.safetensors").read_bytes()
    with pytest.raises(RecipeError, match=r"Use --resume to continue, or a different -o to start over"):
        train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    kept = (tmp_path / "recipe.yaml").read_bytes()
    changed = recipe.model_copy(update={"paper": {"dice": 0.9}})
    with pytest.raises(RecipeError, match="already contains a trained model"):
        train(changed, prepared=prepared, output=tmp_path, fold="all", device="cpu")
    assert (tmp_path / "recipe.yaml").read_bytes() == kept and not (tmp_path / "fold_1").exists()
    again = train(recipe, prepared=prepared, output=tmp_path, device="cpu", resume=True)
    assert again.folds[0].scores == first.folds[0].scores
    assert (tmp_path / "fold_0" / "checkpoint_last.safetensors").read_bytes() == before


def test_without_a_fold_all_cases_but_the_test_part_are_trained_on(prepared, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(prepared, data)
    names = [f"box_{number}" for number in range(6)]
    write_json(data / "splits.json", [{"train": names[:3], "val": names[3:4], "test": names[4:]}])
    recipe = small_recipe(CONVOLUTIONS, epochs=1, patience=1)
    options = {"prepared": data, "output": run, "device": "cpu", "fold": "none"}
    (fold,) = train(recipe, **options).folds
    assert (fold.fold, fold.steps, fold.scores, fold.stopped) == ("none", 3, {}, None)
    log = (run / "fold_none" / "train.log").read_text()
    assert "test: 2 cases stay apart" in log and "no validation cases" in log and "nan" not in log
    dataset = PreparedDataset.open(data)
    assert cases_of(dataset.splits, "none") == {"train": names[:4], "val": [], "test": names[4:]}
    (line,) = list_runs(run).runs
    assert (line.fold, line.state, line.score) == ("none", "done", None)
    with pytest.raises(RecipeError, match="fold_none: already contains a trained model"):
        train(recipe, **options)
    assert train(recipe, resume=True, **options).folds[0].steps == 3
    assert extend(run, 2, device="cpu").folds[0].steps == 6
    assert extend(run, 3, fold="none", device="cpu").folds[0].steps == 9
    with pytest.raises(ModelError, match=r"fold 0 is not trained\. Trained folds: none"):
        extend(run, 3, fold="0", device="cpu")
    (same, last) = (read_checkpoint(Run.open(run).checkpoint("none", name)) for name in ("best", "last"))
    assert all(torch.equal(t, last.part("ema")[name]) for name, t in same.part("network").items())
    model = export_model(run, tmp_path / "m.mambamed").output
    for number, source in enumerate([run, model]):
        predict([source], prepared.parent / "imagesTr" / "box_0.nii.gz", tmp_path / f"masks_{number}")
    test = predict([model], data, tmp_path / "test", job=JobOptions(part="test"))
    assert list(test.cases) == names[4:] and test.next_command.endswith(f"test {data} --part test")
    scored = evaluate_any(tmp_path / "test", data, EvaluateOptions(part="test"))
    assert not scored.faults and scored.table.title.startswith("2 cases")
    with pytest.raises(DatasetError, match=r"is a prepared dataset\. Say which part"):
        predict([model], data, tmp_path / "other")
    first, second = (nib.load(tmp_path / f"masks_{n}" / "box_0.nii.gz").get_fdata() for n in (0, 1))
    assert np.array_equal(first, second)


class Interrupts(Silence):
    """Presses Ctrl-C once, at a step or when a stage begins."""

    def __init__(self, moment: str) -> None:
        self._moment = moment

    def start(self, stage: str, total: int, unit: str) -> None:
        self._press(stage)

    def advance(self, count: int = 1, **facts: str | float) -> None:
        self._press("step" if "loss" in facts else "")

    def _press(self, moment: str) -> None:
        if moment and moment == self._moment:
            self._moment = ""
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("moment", "fact"),
    [
        ("step", "stopped at step 1 of 3"),
        ("validating fold 0", "trained 3 of 3 steps, stopped before the end of the validation"),
    ],
)
def test_after_an_interruption_a_new_start_says_how_far_the_run_is_and_resuming_ends_it(
    prepared, tmp_path, moment, fact
):
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    options = {"prepared": prepared, "output": tmp_path, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt, match=f"^{fact}$"):
        train(recipe, progress=Interrupts(moment), **options)
    with pytest.raises(RecipeError, match=f"fold_0: {fact}. --resume continues, or a different -o"):
        train(recipe, **options)
    fold = train(recipe, resume=True, **options).folds[0]
    assert fold.steps == 3 and fold.stopped is None and set(fold.scores) == {"one", "two"}
    assert (tmp_path / "fold_0" / "train.log").read_text().count("stopped") == 1


def test_a_dry_run_tells_the_cost_and_writes_nothing(prepared, tmp_path):
    summary = train(small_recipe(), prepared=prepared, output=tmp_path / "run", device="cpu", dry_run=True)
    cost = summary.dry_run
    assert cost is not None and cost.patch_size == (16, 16, 16) and cost.batch_size == 2
    assert sum(cost.parts.values()) == cost.parameters > 0 and cost.gflops > 0 and cost.loss > 0
    assert not (tmp_path / "run").exists()


def test_weights_of_another_run_are_a_start_as_far_as_they_fit_or_all_of_them(prepared, tmp_path):
    """The other run answers one structure less: its last layer does not fit."""
    first, other = tmp_path / "a", tmp_path / "b"
    train(small_recipe(CONVOLUTIONS, epochs=1), prepared=prepared, output=first, device="cpu")
    source = Run.open(first)
    weights = read_checkpoint(source.checkpoint(0, "best"))
    heads = [n for n, t in weights.tensors.items() if t.shape[0] == 3]
    assert heads
    for name in heads:
        weights.tensors[name] = weights.tensors[name][:2].clone()
    weights.tensors["network.of_another.weight"] = torch.zeros(1)
    write_checkpoint(source.checkpoint(0, "best"), weights.tensors, weights.facts)
    # The smallest rate: the weights stay what they were at the start.
    recipe = small_recipe(CONVOLUTIONS, epochs=1, steps_per_epoch=1, ema=0, optimizer={"lr": 1e-30})
    options = {"prepared": prepared, "device": "cpu", "fold": "1", "init_from": first}
    exported = options | {"init_from": export_model(first, tmp_path / "m.mambamed").output}
    lines = r"m\.mambamed: fold_0/.*: .* tensors of the network; new: .*; ignored: .*\. Remove --init-strict"
    with pytest.raises(ModelError, match=lines):
        train(recipe, output=tmp_path / "c", init_strict=True, **exported)
    train(recipe, output=other, **options)
    log = (other / "fold_1" / "train.log").read_text()
    total, own = len(weights.part("network")), [name.removeprefix("network.") for name in heads]
    line = next(line for line in log.splitlines() if "weights of" in line)
    fitting = total - len(heads) - 1
    assert (
        f": {fitting} of the {total} tensors in the file match, for {fitting} of the {total - 1} tensors"
        in line
    )
    new, left = line.split("new: ")[1].split("; ignored: ")
    assert set(new.split(", ")) == set(own)
    assert set(left.split(", ")) == {*own, "of_another.weight"}
    taken = read_checkpoint(Run.open(other).checkpoint(1, "last")).tensors
    same = [n for n in weights.tensors if n in taken and torch.equal(weights.tensors[n], taken[n])]
    assert len(same) >= total - len(heads) - 1


def test_a_model_of_the_hub_initializes_a_training_offline(prepared, tmp_path, monkeypatch):
    stub = stub_run(tmp_path / "stub")
    tensors = len(read_checkpoint(stub.checkpoint(0, "best")).part("network"))
    recipe = small_recipe({"name": "nnmamba", **OPTIONS}, epochs=1, steps_per_epoch=1, ema=0)
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe))
    with local_hub(monkeypatch, tmp_path / "home") as hub:
        hub.exists = True
        options = {"data": prepared, "device": "cpu"}
        with pytest.raises(ModelError, match=r"hf://org/name@v1: has no model\.mambamed"):
            mambamed.train(tmp_path / "small.yaml", **options, init_from="hf://org/name@v1")
        hub.files["model.mambamed"] = export_model(stub.root).output.read_bytes()
        local_model(Path("hf://org/name@v1"))
        hub.files.clear()
        go_offline(monkeypatch)
        mambamed.train(
            tmp_path / "small.yaml", **options, output=tmp_path / "run", init_from="hf://org/name@v1"
        )
    log = (tmp_path / "run" / "fold_0" / "train.log").read_text()
    assert f": {tensors} of the {tensors} tensors in the file match" in log


def test_a_fold_with_bad_patches_is_survived_and_the_other_folds_go_on(prepared, tmp_path, monkeypatch):
    """NaN in a patch of fold 1, in a training of all folds."""
    batch = PatchReader.batch

    def spoiled(self, requests):
        made = batch(self, requests)
        if self._augment is not None and requests[0].key[1] == 1 and requests[0].key[-1] // 2 == 1:
            made.image.fill_(math.nan)
        return made

    monkeypatch.setattr(PatchReader, "batch", spoiled)
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    summary = train(recipe, prepared=prepared, output=tmp_path, device="cpu", fold="all")
    assert [fold.fold for fold in summary.folds] == [0, 1, 2, 3, 4]
    assert all(fold.steps == 3 and fold.scores and fold.stopped is None for fold in summary.folds)
    skipped = [list_log(tmp_path / f"fold_{k}")[-1]["skipped"] for k in range(5)]
    assert skipped == ["0", "1", "0", "0", "0"]
    assert "step 1: loss nan" in (tmp_path / "fold_1" / "train.log").read_text()
    for k in range(5):
        tensors = read_checkpoint(Run.open(tmp_path).checkpoint(k, "last")).tensors
        assert all(bool(torch.isfinite(t.float()).all()) for t in tensors.values())


def list_log(folder) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
    with pytest.raises(RecipeError, match="use -d PREPARED"):
        train(small_recipe(), output=tmp_path / "run")


def test_an_extended_run_equals_one_that_was_as_long_from_the_start(prepared, tmp_path):
    """With a rate that does not depend on the length, to the last bit; killed in between as well."""
    constant = {"schedule": {"name": "constant"}}
    train(small_recipe(epochs=1, **constant), prepared=prepared, output=tmp_path / "a", device="cpu")
    with pytest.raises(RecipeError, match="--epochs 0 is less than the run's 1 epochs"):
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


def test_a_run_that_is_trained_is_not_extended(prepared, tmp_path):
    train(small_recipe(epochs=1), prepared=prepared, output=tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with (
        folder_lock(tmp_path / "run" / "fold_0"),
        pytest.raises(RunError, match=f"process {os.getpid()} is writing there"),
    ):
        extend(tmp_path / "run", 2, device="cpu")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


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
