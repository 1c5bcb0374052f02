"""Commands as jobs: of this machine, and of a batch system whose jobs are killed, preempted and lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mambamed.cluster.commands import Command, Outcome, run_commands
from mambamed.cluster.destination import Destination
from mambamed.documents.jobs import JobRequest, JobState
from mambamed.errors import RecipeError, RunError
from mambamed.recipe import dump_recipe
from tests.cluster.fake_program import fake_python
from tests.cluster.fake_slurm import FakeSlurm, until
from tests.told import Told
from tests.training.small_run import CONVOLUTIONS, small_recipe

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no bash")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "no site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return fake


@pytest.fixture
def quick(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "fake"))


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {each.name: each.state for each in outcomes}


def counting(folder: Path) -> Command:
    return Command("count", ("count", str(folder / "number")), again=("--resume",))


@contextmanager
def running(command: Command, place: Destination, folder: Path, told: Told) -> Iterator[list[Outcome]]:
    """Within the block the command is followed; its outcome is there afterwards."""
    found: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: found.extend(run_commands([command], place, folder, told, poll_seconds=0.05))
    )
    thread.start()
    yield found
    thread.join(200)


@pytest.mark.parametrize("on", ["local", "slurm"])
def test_commands_end_done_or_failed_by_name(on, quick, slurm, tmp_path) -> None:
    told, place = Told(), Destination(on, jobs=2)
    asked = [Command("a", ("good",)), Command("b", ("bad",)), Command("c", ("some",))]
    found = run_commands(asked, place, tmp_path / "jobs", told, poll_seconds=0.05)
    assert states(found) == {"a": "done", "b": "failed", "c": "done"}
    assert [(each.exit_code, each.starts, each.fault) for each in found] == [
        (0, 1, ""),
        (2, 1, "r.yaml: wrong. Correct it."),
        (3, 1, "c1: is no image. Leave it out."),
    ]
    assert "mambamed: r.yaml: wrong" in found[1].log.read_text()
    assert "b: failed: r.yaml: wrong. Correct it." in told.lines[0]
    # the command does the whole of its work, whatever the batch script's position is
    assert "SLURM_PROCID" not in found[0].log.read_text()
    # what is done is not done again; what failed is
    found = run_commands(asked, place, tmp_path / "jobs", poll_seconds=0.05)
    assert [each.starts for each in found] == [1, 2, 1]
    assert len(slurm.lines("submitted")) == (4 if on == "slurm" else 0)


def test_what_is_done_is_done_again_without_its_proof_or_with_other_words(quick, tmp_path) -> None:
    folder, proof = tmp_path / "jobs", tmp_path / "proof"
    for exists, starts in ((True, 1), (True, 1), (False, 2)):
        proof.touch() if exists else proof.unlink()
        (found,) = run_commands([Command("a", ("good",), proof=(proof,))], Destination(), folder)
        assert found.starts == starts
    (found,) = run_commands([Command("a", ("good", "other"))], Destination(), folder)
    assert found.starts == 1 and "good other" in found.log.read_text()


def test_a_preempted_job_saves_and_is_requeued_under_its_id(quick, slurm, tmp_path) -> None:
    folder, number = tmp_path / "jobs", tmp_path / "number"
    with running(counting(tmp_path), Destination("slurm"), folder, Told()) as outcomes:
        until(lambda: number.with_suffix(".now").is_file())
        os.kill(slurm.pid("101"), signal.SIGTERM)
        until(number.is_file)
        assert 0 < int(number.read_text()) < 30
    assert (outcomes[0].state, outcomes[0].starts) == ("done", 2) and number.read_text() == "30\n"
    first, second = JobState.of(folder, "count").starts
    assert (first.ending, first.exit_code, first.id) == ("interrupted", 130, "101")
    assert (second.ending, second.exit_code, second.id) == ("done", 0, "101")
    assert slurm.lines("controlled") == ["requeue 101"] and len(slurm.lines("submitted")) == 1
    assert JobRequest.read(folder / "count.json").submissions == ("101",)


def test_a_lost_machine_or_a_refused_requeue_means_another_submission(quick, slurm, tmp_path) -> None:
    folder, number, told = tmp_path / "jobs", tmp_path / "number", Told()
    (slurm.folder / "no_requeue").touch()
    with running(counting(tmp_path), Destination("slurm"), folder, told) as outcomes:
        until(number.is_file)  # at ten
        slurm.kill("101")
        until(lambda: len(JobState.of(folder, "count").starts) == 2)
        until(lambda: number.read_text() == "20\n")
        os.kill(slurm.pid("102"), signal.SIGTERM)
    assert states(outcomes) == {"count": "done"} and number.read_text() == "30\n"
    starts = JobState.of(folder, "count").starts
    assert [(s.id, s.ending) for s in starts] == [("101", None), ("102", "interrupted"), ("103", "done")]
    assert len([line for line in told.lines if line.endswith("started again")]) == 2


@pytest.mark.parametrize("on", ["local", "slurm"])
def test_a_job_that_is_killed_each_time_is_named_after_three(on, quick, slurm, tmp_path) -> None:
    asked = [Command("a", ("killed",)), Command("b", ("good",))]
    found = run_commands(asked, Destination(on), tmp_path / "jobs", poll_seconds=0.05)
    assert states(found) == {"a": "failed", "b": "done"}
    assert found[0].starts == 3 and "killed, possibly for lack of memory" in found[0].fault


def test_the_command_saves_before_the_time_limit(quick, tmp_path) -> None:
    """The limit of 3 s is announced after 2.25 s; the counting takes more than 3 s."""
    place = Destination.of("local", job="time=3s")
    (found,) = run_commands([counting(tmp_path)], place, tmp_path / "jobs")
    starts = JobState.of(tmp_path / "jobs", "count").starts
    assert found.state == "done" and len(starts) > 1
    assert {start.ending for start in starts[:-1]} == {"interrupted"}


def test_a_second_call_follows_the_jobs_of_one_that_was_killed(quick, slurm, tmp_path) -> None:
    code = (
        "import sys\n"
        f"sys.executable = {sys.executable!r}\n"
        "from pathlib import Path\n"
        "from mambamed.cluster.commands import *\n"
        "from mambamed.cluster.destination import Destination\n"
        f"count = Command('count', {counting(tmp_path).words!r})\n"
        f"run_commands([count, Command('b', ('bad',))], Destination('slurm'), "
        f"Path({str(tmp_path / 'jobs')!r}), poll_seconds=60)\n"
    )
    python = Path(sys.exec_prefix) / "bin" / "python"
    leader = subprocess.Popen([python, "-c", code], cwd=ROOT)
    until(lambda: (tmp_path / "number.now").exists() and (tmp_path / "jobs" / "b.state.json").exists())
    leader.kill()
    leader.wait()
    with pytest.raises(RecipeError, match="has not ended"):
        run_commands([Command("count", ("good",))], Destination("slurm"), tmp_path / "jobs")
    asked = [Command("count", counting(tmp_path).words), Command("b", ("bad",))]
    found = run_commands(asked, Destination("slurm"), tmp_path / "jobs", poll_seconds=0.05)
    assert states(found) == {"count": "done", "b": "failed"} and found[0].starts == 1


def test_a_refused_job_is_one_line(slurm, tmp_path) -> None:
    (slurm.folder / "refuse").touch()
    with pytest.raises(RunError, match="sbatch: exit code 1: sbatch: error: Invalid partition name"):
        run_commands([Command("a", ("good",))], Destination("slurm"), tmp_path / "jobs")
    with pytest.raises(RunError, match="bsub: no such command"):
        run_commands([Command("a", ("good",))], Destination("lsf"), tmp_path / "others")
    with pytest.raises(RecipeError, match="whole commands run on this machine"):
        run_commands([Command("a", ("good",))], Destination("tcp://a:1"), tmp_path / "jobs")
    with pytest.raises(RecipeError, match="same name"):
        run_commands([Command("a", ("good",)), Command("a", ("bad",))], Destination(), tmp_path / "jobs")


def test_a_batch_system_that_does_not_answer_loses_no_job(quick, slurm, tmp_path) -> None:
    (slurm.folder / "silent").touch()
    (found,) = run_commands(
        [Command("a", ("good",))], Destination("slurm"), tmp_path / "jobs", poll_seconds=0.05
    )
    assert found.state == "done" and len(slurm.lines("submitted")) == 1


def test_a_file_stop_ends_the_starting_of_jobs(quick, tmp_path) -> None:
    folder = tmp_path / "jobs"
    with running(counting(tmp_path), Destination(), folder, Told()) as outcomes:
        until(lambda: (tmp_path / "number.now").exists())
        (folder / "STOP").touch()
        os.kill(JobState.of(folder, "count").starts[0].process, signal.SIGTERM)
    assert states(outcomes) == {"count": "stopped"}


def test_local_jobs_end_with_the_process_that_started_them_and_go_on_with_the_next(quick, tmp_path) -> None:
    code = (
        "import sys\n"
        f"sys.executable = {sys.executable!r}\n"
        "from pathlib import Path\n"
        "from mambamed.cluster.commands import *\n"
        "from mambamed.cluster.destination import Destination\n"
        f"run_commands([Command('count', {counting(tmp_path).words!r})], Destination(), "
        f"Path({str(tmp_path / 'jobs')!r}))\n"
    )
    leader = subprocess.Popen([Path(sys.exec_prefix) / "bin" / "python", "-c", code], cwd=ROOT)
    until(lambda: (tmp_path / "number.now").exists())
    leader.kill()
    leader.wait()
    until(lambda: JobState.of(tmp_path / "jobs", "count").ending == "interrupted")
    (found,) = run_commands([counting(tmp_path)], Destination(), tmp_path / "jobs")
    assert (found.state, found.starts) == ("done", 2)


@pytest.mark.slow
def test_a_preempted_training_goes_on(slurm, prepared, tmp_path) -> None:
    """The real command, with SIGTERM as SLURM sends it."""
    file, folder = tmp_path / "recipe.yaml", tmp_path / "jobs"
    file.write_text(dump_recipe(small_recipe(CONVOLUTIONS, epochs=30, steps_per_epoch=5)))
    words = ("train", str(file), "-d", str(prepared), "-o", str(tmp_path / "run"), "--device", "cpu", "-q")
    proof = (tmp_path / "run" / "fold_0" / "summary.json",)
    command = Command("fold_0", words, again=("--resume",), proof=proof)
    with running(command, Destination("slurm"), folder, Told()) as outcomes:
        until((tmp_path / "run" / "fold_0" / "log.csv").is_file, 200)
        os.kill(slurm.pid("101"), signal.SIGTERM)
    assert (outcomes[0].state, outcomes[0].starts) == ("done", 2)
    assert "resumed at step" in (tmp_path / "run" / "fold_0" / "train.log").read_text()
