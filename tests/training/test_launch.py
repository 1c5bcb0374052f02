"""`--gpus N` starts other processes, which end with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mambamed
from mambamed.errors import RecipeError, RunError
from mambamed.recipe import dump_recipe
from mambamed.training.launch import Started, launch, launched, started
from mambamed.training.stopping import STOP_SIGNALS
from mambamed.training.training import TrainSummary
from tests.faults.in_process import call
from tests.kills import contents
from tests.training.small_run import CONVOLUTIONS, small_recipe

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = """
import sys
from pathlib import Path
import torch
from mambamed.training.launch import launch
torch.cuda.device_count = lambda: 2
sys.executable = {program!r}
raise SystemExit(launch(2, ["train"]))
"""
PROGRAM = """#!/bin/bash
trap 'echo saved > {folder}/saved; exit 7' {name}
touch {folder}/started
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_processes_are_waited_for(number, tmp_path) -> None:
    program = tmp_path / "torchrun"
    program.write_text(PROGRAM.format(folder=tmp_path, name=number.name.removeprefix("SIG")))
    program.chmod(0o755)
    command = subprocess.Popen(
        [sys.executable, "-c", LAUNCH.format(program=str(program))], cwd=ROOT, start_new_session=True
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
        assert command.poll() is None
    command.send_signal(number)
    assert command.wait(20) == 7
    assert (tmp_path / "saved").exists()


def test_more_processes_than_gpus_are_rejected(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(RecipeError, match="--gpus 2: torch sees 1 CUDA devices"):
        launch(2, ["train"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched(2) and not launched(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert not launched(2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched(2)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ("WORLD_SIZE=2 RANK=0", "--gpus 4: this is one of 2 processes that were started together"),
        ("WORLD_SIZE=2", "WORLD_SIZE=2: RANK is not set. Start the processes with torchrun, or unset"),
        ("WORLD_SIZE=two", "WORLD_SIZE=two: expected a number"),
        ("WORLD_SIZE=4 RANK=-1", "RANK=-1: expected a number"),
        ("WORLD_SIZE=4 RANK=4", "RANK=4: expected less than 4"),
        ("WORLD_SIZE=4 RANK=0 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "LOCAL_RANK=2: expected less than 2"),
        ("WORLD_SIZE=4 RANK=0 LOCAL_WORLD_SIZE=8", "LOCAL_WORLD_SIZE=8: expected 1 to WORLD_SIZE=4"),
        ("WORLD_SIZE=0 RANK=0", "RANK=0: expected less than 0"),
        ("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NUM_TASKS=2: srun has started this command 2"),
    ],
)
def test_variables_that_contradict_each_other_are_one_line(variables, line, monkeypatch, tmp_path) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for each in variables.split():
        monkeypatch.setenv(*each.split("=", 1))
    done = call("train", "hippocampus_nnmamba", "--gpus", "4", "-o", str(tmp_path / "run"))
    assert done.code == 2 and done.line_with(line)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "dataset.json").write_text("{}")
    with pytest.raises(RecipeError, match=line):
        mambamed.train("hippocampus_nnmamba", tmp_path / "prepared", tmp_path / "run", gpus=4)
    assert not (tmp_path / "run").exists()


def test_tasks_of_srun_without_torchrun_train_nothing(prepared, monkeypatch, tmp_path) -> None:
    """Before, one task trained alone while the others ended with exit code 1 at the lock of its folder.

    The variables are those of `srun -n 2`, of `srun -n 1`, and of a batch script without srun.
    """
    recipe, run = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(dump_recipe(small_recipe(CONVOLUTIONS, epochs=1)))
    words = ("train", str(recipe), "-d", str(prepared), "-o", str(run), "--device", "cpu")
    for rank in ("1", "0"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        done = call(*words)
        assert done.code == 2 and done.line_with("If every task has a run of its own, unset SLURM_PROCID.")
        assert not run.exists()
    assert started({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Started()
    assert started({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == Started()
    torchrun = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert started({**torchrun, **step}) == Started(3, 4, 1, 2)


def test_as_many_processes_as_gpus_are_no_contradiction(monkeypatch) -> None:
    """Also two of each of two machines; variables that clusters set in every process are no start."""
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not launched(4) and not launched(2) and not launched(1)
    assert started({"WORLD_SIZE": "", "RANK": "x"}) == started({"RANK": "3"}) == Started()


def test_a_call_from_python_starts_the_processes_with_its_own_arguments(monkeypatch, tmp_path) -> None:
    """Not with the arguments of the program that calls it; the summary is that of the finished run."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    program = tmp_path / "torchrun"
    program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "argv", ["notebook.py", "--unknown"])
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: hippocampus_nnmamba\n")
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "dataset.json").write_text("{}")
    with pytest.raises(RunError, match="2 processes ended with exit code 7"):
        mambamed.train(recipe, prepared, tmp_path / "run", fold=[0, 2], set="training.epochs=3", gpus=2)
    words = (tmp_path / "words").read_text().split("\n")
    begin = words.index("train")
    assert words[begin : begin + 2] == ["train", str(recipe)]
    assert {"--gpus", "--unknown", "--progress"}.isdisjoint(words)
    expected = {"--fold": "0,2", "--set": "training.epochs=3", "--output": str(tmp_path / "run")}
    for flag, value in (expected | {"--data": str(prepared)}).items():
        assert words[words.index(flag) + 1] == value


def test_processes_that_stopped_are_summarized_and_not_continued_here(
    prepared, monkeypatch, tmp_path
) -> None:
    """The processes end with 0 after a file STOP; before, this process went on alone, on one GPU."""
    recipe, run = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(dump_recipe(small_recipe(CONVOLUTIONS)))
    run.mkdir()
    (run / "STOP").touch()
    asked = {"data": prepared, "output": run, "device": "cpu"}
    stopped = mambamed.train(recipe, **asked)
    assert isinstance(stopped, TrainSummary) and stopped.folds[0].stopped
    before = contents(run)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as some clusters set it: no start of torchrun
    program = tmp_path / "torchrun"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(mambamed.train(recipe, gpus=2, **asked)))
    thread.start()  # signals cannot be handled there
    thread.join()
    found.append(mambamed.train(recipe, gpus=2, **asked))
    for summary in found:
        assert isinstance(summary, TrainSummary)
        assert summary.folds[0].steps == stopped.folds[0].steps < summary.folds[0].planned_steps
        assert summary.folds[0].stopped == "not finished"
    assert len(found) == 2 and (tmp_path / "words").exists() and contents(run) == before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    with pytest.raises(RunError, match="has left no checkpoint"):
        mambamed.train(recipe, gpus=2, data=prepared, output=tmp_path / "absent")
