"""Work over cases in processes, some of which are killed, as when memory is short."""

import os
import signal
from pathlib import Path

from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.preparation.pool import over_cases
from mambamed.progress import Silence

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


class Told(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def answers(work, folder: Path, progress=None):
    arguments = [(case, folder) for case in CASES]
    return {case.id: answer for case, answer in over_cases(work, arguments, 2, progress or Silence())}


def test_a_killed_process_ends_in_a_line_that_names_its_case_and_the_rest_goes_on_in_few_processes(
    tmp_path,
) -> None:
    found = answers(die, tmp_path)
    assert list(sorted(found)) == [case.id for case in CASES]
    assert isinstance(found["c2"], CaseError)
    assert "c2: its process was killed twice" in str(found["c2"])
    others = [answer for case_id, answer in found.items() if case_id != "c2"]
    assert all(isinstance(answer, str) for answer in others)
    # At most four were at work or in the queue; they are tried alone, the others by two new processes.
    assert len({answer.split()[-1] for answer in others}) < len(others)


def test_who_was_killed_once_is_tried_again_and_told(tmp_path) -> None:
    told = Told()
    assert answers(die_once, tmp_path, told) == {case.id: case.id for case in CASES}
    assert "c1: its process was killed; the second attempt succeeded" in told.lines


def test_a_faulty_case_stops_no_other_and_each_process_has_one_thread(tmp_path) -> None:
    found = answers(refuse, tmp_path)
    assert str(found.pop("c3")) == "c3: is no image; leave it out"
    assert set(found.values()) == {"1"}
