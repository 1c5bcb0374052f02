"""Two processes that train together, on this machine's CPU (gloo)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mambamed import api
from mambamed.batches.sampler import PatchRequest
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe, dump_recipe
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from mambamed.training import train
from mambamed.training.launch import launch, launched
from mambamed.training.ranks import Ranks, ShareOfSampler, leave_ranks


def recipe(batch_size: int) -> Recipe:
    """InstanceNorm, because two halves of a batch have other batch statistics than the whole."""
    network = {"name": "nnunet", "channels": 4, "stages": 2}
    settings = {
        "epochs": 2,
        "steps_per_epoch": 4,
        "batch_size": batch_size,
        "patch_size": [16, 16, 16],
        "precision": "fp32",
        "validation_patches": 2,
        "foreground": 0.5,
    }
    return Recipe.model_validate(
        {"name": "small", "network": network, "training": settings, "inference": {"tta": "none"}}
    )


def losses(run: Path) -> list[float]:
    with (run / "fold_0" / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("loss", "validation_loss")]


def test_two_processes_train_as_one_with_the_doubled_batch(prepared, tmp_path):
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe(1)))
    train(recipe(2), prepared=prepared, output=tmp_path / "one", device="cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "mambamed", "train", str(tmp_path / "small.yaml"), "-d", str(prepared)]
    command += ["-o", str(tmp_path / "two"), "--device", "cpu", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: mambamed predict") == 1  # one of the two speaks
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (read_checkpoint(Run.open(tmp_path / n).checkpoint(0, "last")) for n in ("one", "two"))
    for name, tensor in one.part("network").items():
        if (
            tensor.ndim > 1
        ):  # biases before a normalization have no gradient but rounding, which Adam magnifies
            torch.testing.assert_close(two.part("network")[name], tensor, rtol=1e-3, atol=1e-4)
    assert "processes 2" in (tmp_path / "two" / "fold_0" / "train.log").read_text()


def test_the_verb_that_trains_parts_from_the_other_processes(prepared, tmp_path):
    """Else some end on SIGABRT: 2 of 60 that only met, exchanged a tensor and ended (torch 2.13)."""
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe(1)))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    api.train(str(tmp_path / "small.yaml"), data=prepared, device="cpu", dry_run=True)
    assert not torch.distributed.is_initialized()
    leave_ranks()  # alone, too


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """What a training imports of torch later has ten functions whose default argument is the group."""
    code = """
import os, sys
import torch.distributed as dist
from mambamed.training.ranks import join_ranks, leave_ranks
init, alone = dist.init_process_group, {"init_method": sys.argv[1], "rank": 0, "world_size": 1}
dist.init_process_group = lambda backend, timeout: init(backend, timeout=timeout, **alone)
before = len(os.listdir("/proc/self/task"))
os.environ["WORLD_SIZE"] = "2"
join_ranks("cpu")
during = len(os.listdir("/proc/self/task"))
import torch.distributed.nn.functional
leave_ranks()
assert during > before == len(os.listdir("/proc/self/task"))
"""
    store = f"file://{tmp_path / 'store'}"
    done = subprocess.run([sys.executable, "-c", code, store], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_alone_agrees_with_itself():
    alone, parameter = Ranks(), torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 3.0])
    alone.average_gradients([parameter])
    assert alone.leads and alone.mean(2.5, torch.device("cpu")) == 2.5 and alone.agree("x") == "x"
    assert parameter.grad.tolist() == [1.0, 3.0]


def test_shares_of_a_batch_are_disjoint_and_complete():
    class Whole:
        def requests(self, step):
            return [PatchRequest(f"c{step}", (0, 0, n), (n,)) for n in range(6)]

    shares = [ShareOfSampler(Whole(), Ranks(rank, 3)).requests(7) for rank in range(3)]
    assert [r.key[0] for share in shares for r in share] == list(range(6))


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched(2) and not launched(1)
    with pytest.raises(RecipeError, match="--gpus 99: torch sees"):
        launch(99, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launched(2)
