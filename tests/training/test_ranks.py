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
from mambamed.errors import RecipeError, RunError
from mambamed.recipe import dump_recipe
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from mambamed.training import train
from mambamed.training.launch import launch, launched
from mambamed.training.ranks import Ranks, ShareOfSampler, check_shared_folder, leave_ranks
from tests.training.two_ranks import TRAININGS, recipe


def losses(run: Path) -> list[float]:
    with (run / "fold_0" / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("loss", "validation_loss")]


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> Path:
    """The trainings of `two_ranks`, each also by one process with all patches of a step at once.

    Without oneDNN, whose choice of an algorithm, and so the rounding, depends on the size of the batch.
    """
    root = tmp_path_factory.mktemp("ranks")
    for name, training in TRAININGS.items():
        batch = 2 * training.get("accumulate", 1)
        whole = recipe(batch, **{**training, "accumulate": 1})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.backends.mkldnn, "enabled", False)
            train(whole, prepared=prepared, output=root / f"{name} alone", device="cpu")
    for name, epochs in (("resumed", 2), ("stopped", 9)):
        train(recipe(1, epochs=1), prepared=prepared, output=root / name, device="cpu")
        (root / name / "recipe.yaml").write_text(dump_recipe(recipe(1, epochs=epochs)))
    (root / "stopped" / "STOP").touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.two_ranks", str(prepared), str(root)]
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, cwd=here)
    assert done.returncode == 0, done.stderr
    return root


def weights(run: Path) -> dict[str, torch.Tensor]:
    content = read_checkpoint(Run.open(run).checkpoint(0, "last"))
    return {**content.part("network"), **{f"ema.{n}": t for n, t in content.part("ema").items()}}


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_with_the_doubled_batch(trained, name):
    """Also with accumulated gradients, and with a head whose parameters have no gradient."""
    one, two = weights(trained / f"{name} alone"), weights(trained / name)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-6, atol=1e-6)
    assert losses(trained / name) == pytest.approx(losses(trained / f"{name} alone"), rel=1e-5)


def test_the_processes_share_the_validation(trained):
    """Masks, and their scores in cases.csv, as of one process."""
    tables = [
        (trained / name / "fold_0" / "cases.csv").read_text().splitlines()
        for name in ("plain", "plain alone")
    ]
    assert len(tables[0]) == len(tables[1]) > 2
    assert [row.split(",")[:3] for row in tables[0]] == [row.split(",")[:3] for row in tables[1]]
    log = (trained / "plain" / "fold_0" / "train.log").read_text()
    assert log.count("processes 2, 2 of them on this machine") == 1  # one of the two writes


def test_two_processes_continue_what_one_began(trained):
    log = (trained / "resumed" / "fold_0" / "train.log").read_text()
    assert "resumed at step 4 of 8" in log
    assert read_checkpoint(Run.open(trained / "resumed").checkpoint(0, "last")).facts["counters"]["step"] == 8


def test_a_request_to_stop_ends_all_processes_in_the_same_step(trained):
    facts = read_checkpoint(Run.open(trained / "stopped").checkpoint(0, "last")).facts["counters"]
    # Asked after step 5, which is the first one here; exchanged with step 6.
    assert facts["step"] == 6 and not (trained / "stopped" / "STOP").exists()


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
os.environ |= {"WORLD_SIZE": "2", "RANK": "0"}
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
    alone, network, numbers = Ranks(), torch.nn.Linear(1, 1), torch.tensor([1.0, 3.0])
    alone.average(numbers)
    assert alone.leads and alone.agree("x") == "x" and alone.gather([1, 2]) == [1, 2]
    assert alone.parallel(network) is network and numbers.tolist() == [1.0, 3.0]


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
    monkeypatch.setenv("RANK", "0")
    assert not launched(2)


def test_a_folder_that_another_machine_does_not_see_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "gather", lambda self, done: [*done, "node2"])
    with pytest.raises(RunError, match=f"{tmp_path}: is not there on node2"):
        check_shared_folder(Ranks(0, 2), tmp_path)
