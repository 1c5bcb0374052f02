"""`train --on`: one job per fold and seed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import mambamed
from mambamed.documents.jobs import JobRequest
from mambamed.errors import RecipeError, RunError
from mambamed.jobs.listing import list_jobs
from mambamed.recipe import dump_recipe
from tests.cluster.fake_program import fake_python
from tests.cluster.fake_slurm import FakeSlurm
from tests.kills import ROOT, contents
from tests.training.small_run import CONVOLUTIONS, small_recipe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no bash")
TIMED = {"run.json", "train.log", "log.csv", "progress.png", "checkpoint_last.safetensors", "summary.json"}


@pytest.fixture
def recipe(tmp_path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(small_recipe(CONVOLUTIONS, epochs=1, steps_per_epoch=2)))
    return file


def test_seeds_are_jobs_and_equal_one_process(recipe, prepared, tmp_path, monkeypatch) -> None:
    slurm = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "no site"))
    monkeypatch.setattr("mambamed.cluster.runners.BatchRunner.poll_seconds", 0.1)
    given = {"fold": "1", "seeds": "4,7", "device": "cpu", "deterministic": True}
    place = {"on": "slurm", "job": "gpus=1,time=1:00:00"}
    apart = mambamed.train(recipe, prepared, tmp_path / "apart", **given, **place)
    assert (len(slurm.lines("submitted")), apart.seeds, apart.faults) == (2, (4, 7), ())
    script = (tmp_path / "apart.jobs" / "seed_7_fold_1.sh").read_text()
    assert "#SBATCH --gres=gpu:1" in script and "#SBATCH --time=01:00:00" in script
    alone = mambamed.train(recipe, prepared, tmp_path / "alone", **given)
    assert apart.scores == alone.scores and [fold.steps for fold in apart.runs[1].folds] == [2]
    assert contents(tmp_path / "apart", TIMED) == contents(tmp_path / "alone", TIMED)
    # what is trained is not trained again
    again = mambamed.train(recipe, prepared, tmp_path / "apart", **given, **place)
    assert again.scores == apart.scores and len(slurm.lines("submitted")) == 2
    lines = list_jobs(tmp_path / "apart").lines
    assert {line.state for line in lines} == {"done"} and lines[0].progress == "1/1 epochs"


def test_every_fold_is_a_job_and_one_that_fails_is_named(recipe, prepared, tmp_path, monkeypatch) -> None:
    """On a machine without CUDA, every job fails by itself."""
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "fake"))
    with pytest.raises(RunError) as caught:
        mambamed.train(recipe, prepared, tmp_path / "run", fold="all", gpus=2, on="local", jobs=2)
    lines = str(caught.value).splitlines()
    assert [line.partition(": failed: ")[0] for line in lines] == [f"fold_{n}" for n in range(5)]
    request = JobRequest.read(tmp_path / "run.jobs" / "fold_3.json")
    expected = ["train", str(recipe), "--device", "auto", "--scan", "auto", "--data", str(prepared)]
    expected += ["--output", str(tmp_path / "run"), "--fold", "3", "--gpus", "2"]
    assert request.words == tuple(expected) and request.again == ("--resume",)


def test_what_cannot_be_asked_of_jobs_is_one_line(recipe, prepared, tmp_path) -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        mambamed.train(data=prepared, on="local")
    with pytest.raises(RecipeError, match="--dry-run"):
        mambamed.train(recipe, prepared, dry_run=True, on="local")
    with pytest.raises(RecipeError, match="need --on"):
        mambamed.train(recipe, prepared, jobs=2)
    with pytest.raises(RecipeError, match="--gpus 4: each job has 2"):
        mambamed.train(recipe, prepared, on="slurm", job="gpus=2", gpus=4)
    with pytest.raises(RecipeError, match="no such place"):
        mambamed.train(recipe, prepared, on="slrum")
