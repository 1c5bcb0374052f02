"""`mambamed jobs`: jobs and cases of a folder, from their records."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mambamed.cluster.commands import KIND
from mambamed.documents.jobs import JobRequest, JobState, Start
from mambamed.errors import DatasetError
from mambamed.io.ownership import Output
from mambamed.jobs.listing import list_jobs
from tests.cluster.fake_slurm import FakeSlurm
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS


def write(
    place: Path, name: str, on: str = "local", submissions: tuple[str, ...] = (), **start: object
) -> None:
    words = ("train", "r.yaml", "--output", "run", "--fold", "0")
    request = JobRequest(name=name, words=words, folder=str(place), on=on, submissions=submissions)
    request.write(place / f"{name}.json")
    now = time.time()
    given = {"host": "node7", "process": 1, "began": now - 100, "seen": now, **start}
    if start:
        JobState(starts=(Start(**given),)).write(place / f"{name}.state.json")


@pytest.fixture
def place(tmp_path) -> Path:
    with Output(tmp_path / "runs.jobs", KIND).locked():
        pass
    return tmp_path / "runs.jobs"


def test_jobs_are_listed_by_state_with_what_failed(place) -> None:
    now = time.time()
    write(place, "a", ended=now, ending="done", exit_code=0)
    write(place, "b", ended=now, ending="failed", exit_code=2, fault="r.yaml: wrong. Correct it.")
    write(place, "c", seen=now - 1)
    write(place, "d", seen=now - 9999)
    write(place, "e", ended=now, ending="interrupted", exit_code=130)
    write(place, "f")
    found = list_jobs(place.with_name("runs"))
    states = {line.name: line.state for line in found.lines}
    expected = {"a": "done", "b": "failed", "c": "running", "d": "lost", "e": "waiting", "f": "waiting"}
    assert states == expected and found.lines[0].seconds == pytest.approx(100, abs=1)
    assert found.failed == (f"b: r.yaml: wrong. Correct it. (see {place / 'b.log'})",)
    done = call("jobs", str(place))
    assert done.code == 0 and "node7" in done.stdout and "failed: b: r.yaml: wrong" in done.stdout


def test_active_jobs_are_cancelled_and_not_started_again(place, tmp_path, monkeypatch) -> None:
    slurm = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.bin}:{os.environ['PATH']}")
    (slurm.bin / "scancel").write_text(f'#!/bin/sh\necho "$1" >> {slurm.folder}/cancelled\n')
    (slurm.folder / "102.queued").touch()
    write(place, "a", on="slurm", submissions=("101",), ended=time.time(), ending="done", exit_code=0)
    write(place, "b", on="slurm", submissions=("102",), id="102")
    found = list_jobs(place, cancel=True)
    assert found.cancelled == ("102",) == tuple(slurm.lines("cancelled"))
    assert (place / "STOP").is_file()


def test_the_cases_of_an_output_are_counted_and_faults_named(tmp_path) -> None:
    arguments = JOBS["predict"](tmp_path, 2)
    (tmp_path / "images" / "broken.nii.gz").write_bytes(b"no image")
    assert call(*arguments, "-o", str(tmp_path / "masks")).code == 3
    (line,) = (found := list_jobs(tmp_path / "masks")).lines
    assert (line.name, line.state, line.progress) == ("masks", "failed", "2/3 cases")
    assert len(found.failed) == 1 and found.failed[0].startswith("broken: ")
    with pytest.raises(DatasetError, match="holds no jobs"):
        list_jobs(tmp_path / "images")
