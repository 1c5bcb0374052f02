"""Work over cases in processes, some of which are killed, as when memory is short."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.preparation.pool import over_cases
from mambamed.progress import Silence
from tests.told import Told

ROOT = Path(__file__).resolve().parents[2]
CASES = [Case(f"c{n}", ()) for n in range(9)]


def die(case, folder):
    """The process that gets c2 is killed; those beside it are innocent."""
    if case.id == "c2":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{case.id} in {os.getpid()}"


def die_once(case, folder):
    """The first process that gets c1 is killed, the second is not."""
    if case.id == "c1" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return case.id


def refuse(case, folder):
    if case.id == "c3":
        raise CaseError("c3: is no image; leave it out")
    return os.environ["OMP_NUM_THREADS"]


def answers(work, folder: Path, progress=None):
    arguments = [(case, folder) for case in CASES]
    return {case.id: answer for case, answer in over_cases(work, arguments, 2, progress or Silence())}


def test_a_killed_process_ends_in_a_line_that_names_its_case_and_the_rest_goes_on_in_few_processes(
    tmp_path,
) -> None:
    found = answers(die, tmp_path)
    assert list(sorted(found)) == [case.id for case in CASES]
    assert isinstance(found["c2"], CaseError)
    assert "c2: its process was killed each time" in str(found["c2"])
    others = [answer for case_id, answer in found.items() if case_id != "c2"]
    assert all(isinstance(answer, str) for answer in others)
    # At most four were at work or in the queue; they are tried alone, the others by two new processes.
    assert len({answer.split()[-1] for answer in others}) < len(others)


def test_who_was_killed_once_is_tried_again_and_told(tmp_path) -> None:
    told = Told()
    assert answers(die_once, tmp_path, told) == {case.id: case.id for case in CASES}
    assert "c1: its process was killed; a further attempt succeeded" in told.lines


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ImportError("sem_open")])
def test_without_shared_memory_the_cases_are_done_in_this_process(error, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(multiprocessing.context.SpawnContext, "Lock", full)
    monkeypatch.setattr(multiprocessing.context.SpawnContext, "SimpleQueue", full)
    told = Told()
    found = answers(process_of, tmp_path, told)
    assert found == {case.id: os.getpid() for case in CASES}
    assert len(told.lines) == 1 and "/dev/shm" in told.lines[0] and "--workers 1" in told.lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_worker_processes_end_with_the_command(number, tmp_path) -> None:
    code = (
        "from pathlib import Path\n"
        "from tests.preparation.test_pool import answers, wait_long\n"
        f"answers(wait_long, Path({str(tmp_path)!r}))\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
        assert command.poll() is None
    command.send_signal(number)
    assert command.wait(10) == -number
    limit = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < limit:
            os.killpg(command.pid, 0)
            time.sleep(0.02)


def wait_long(case, folder):
    (folder / case.id).touch()
    time.sleep(60)


def process_of(case, folder):
    return os.getpid()


def test_a_faulty_case_stops_no_other_and_each_process_has_one_thread(tmp_path) -> None:
    found = answers(refuse, tmp_path)
    assert str(found.pop("c3")) == "c3: is no image; leave it out"
    assert set(found.values()) == {"1"}
