"""Two commands on one folder, a reader that leaves, a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.io.lock import folder_lock
from mambamed.preparation.pool import over_cases
from mambamed.progress import Silence
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, TIMED, evaluate_job, output_of, predict_job, prepare_job
from tests.kills import ROOT, contents, outlive_kills, start


@pytest.mark.parametrize("job", [prepare_job, predict_job])
def test_a_folder_in_which_another_process_writes_is_refused_with_its_id(job, tmp_path) -> None:
    arguments, out = job(tmp_path), tmp_path / "out"
    with folder_lock(out):
        before = contents(out)
        done = call(*arguments, "-o", out)
    assert done.code == 1 and done.line_with(str(out), f"process {os.getpid()} is writing there")
    assert contents(out) == before
    assert call(*arguments, "-o", out).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("job", [prepare_job, predict_job, evaluate_job])
def test_two_commands_at_once_on_one_folder_leave_what_one_leaves(job, tmp_path) -> None:
    arguments = job(tmp_path)
    assert call(*arguments, "-o", tmp_path / "whole").code == 0
    for turn in range(5):
        out = tmp_path / f"out_{turn}"
        both = [start([*arguments, "-o", str(out)]) for _ in range(2)]
        codes = sorted(process.wait(120) for process in both)
        assert codes in ([0, 0], [0, 1])
        assert contents(out, TIMED) == contents(tmp_path / "whole", TIMED)


def shell(line: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "TERM": "dumb"}
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's pipe")
@pytest.mark.parametrize(
    "line",
    [
        '"$PYTHON" -m mambamed recipes list | head -1',
        '"$PYTHON" -m mambamed recipes list >&-',
        'PYTHONIOENCODING=ascii NO_COLOR=1 "$PYTHON" -m mambamed recipes list',
        'PYTHONIOENCODING=cp437 LC_ALL=C "$PYTHON" -m mambamed recipes list',
    ],
)
def test_a_reader_that_leaves_or_knows_few_letters_sees_no_traceback(line) -> None:
    done = shell(line)
    assert done.returncode in {0, 141}, done
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
    assert "\x1b" not in done.stdout


def die(case, folder):
    """The process that gets c2 is killed; when it was is kept."""
    if case.id == "c2":
        (folder / f"{time.time()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return case.id


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_worker_that_is_killed_is_told_within_10_seconds_by_the_name_of_its_case(tmp_path) -> None:
    cases = [(Case(f"c{number}", ()), tmp_path) for number in range(5)]
    answers, told = {}, 0.0
    for case, answer in over_cases(die, cases, 2, Silence()):
        answers[case.id] = answer
        if isinstance(answer, CaseError):
            told = time.time()
    assert "c2: its process was killed each time" in str(answers.pop("c2"))
    assert set(answers) == {"c0", "c1", "c3", "c4"}
    deaths = sorted(float(path.name) for path in tmp_path.iterdir())
    assert len(deaths) == 2 and told - deaths[-1] < 10


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(
    ("verb", "count"),
    [
        *(("evaluate", 1), ("export", 1)),
        *(
            pytest.param(verb, 20, marks=pytest.mark.slow)
            for verb in ("evaluate", "export", "landmarks", "classify")
        ),
    ],
)
def test_a_verb_killed_at_some_moments_ends_with_the_same_bytes(verb, count, tmp_path) -> None:
    """`prepare`, `predict` and `train` have tests of their own, of larger jobs."""
    arguments = JOBS[verb](tmp_path, 3 if count == 1 else 12)

    def command(place: Path) -> list[str]:
        return [*arguments, "-o", str(output_of(verb, place))]

    trials = outlive_kills(command, tmp_path, count, differ=TIMED)
    assert count == 1 or any(trial.hit for trial in trials)
