"""Every write of a small job fails in turn: one line, exit code 1, nothing torn; the same command completes.

All files go through io/atomic; that none goes past it is tested here too.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from mambamed.io import atomic
from mambamed.jobs import record
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, TIMED, output_of
from tests.kills import contents


class Disk:
    """Counts the files that come under their names, and lets one of them fail.

    Attributes:
        written: so many were asked for.
        failing: the number of the one that fails; 0 = none.
        error: of the system.
    """

    def __init__(self) -> None:
        self.written, self.failing, self.error = 0, 0, errno.ENOSPC
        self._replace = Path.replace

    def replace(self, path: Path, target: Path) -> Path:
        if path.name.startswith(atomic.TEMPORARY_PREFIX):
            self.written += 1
            if self.written == self.failing:
                raise OSError(self.error, os.strerror(self.error))
        return self._replace(path, target)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(Path, "replace", lambda path, target: disk.replace(path, target))
    monkeypatch.setattr(record, "PAUSE", 0)  # the number of writes does not depend on the clock
    return disk


@pytest.mark.parametrize(
    "verb",
    # landmarks and classify write through the engine of predict
    [pytest.param(v, marks=pytest.mark.slow if v in {"landmarks", "classify"} else ()) for v in JOBS],
)
def test_each_write_that_fails_is_one_line_and_the_same_command_completes(verb, disk, tmp_path) -> None:
    job = JOBS[verb](tmp_path)

    def run(name: str):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        return call(*job, "-o", output_of(verb, place)), place

    disk.written = 0
    done, whole = run("whole")
    assert done.code == 0, done
    expected, writes = contents(whole, TIMED), disk.written
    assert writes >= len([name for name in expected if not name.endswith(".lock")])
    for number in range(1, writes + 1):
        disk.written, disk.failing = 0, number
        disk.error = (errno.ENOSPC, errno.EACCES)[number % 2]
        done, place = run(f"failed_{number}")
        assert done.code == 1, f"write {number}: {done}"
        word = "disk is full" if number % 2 == 0 else "no permission"
        assert re.search(rf"{place}.*cannot be written: .*{word}", done.line_with("cannot be written"))
        left = contents(place, TIMED)
        assert {name: expected[name] for name in left} == left, f"write {number} left a torn file"
        disk.failing = 0
        assert run(f"failed_{number}")[0].code == 0
        assert contents(place, TIMED) == expected, f"write {number}: other files or other bytes"
        assert not list(place.rglob(f"{atomic.TEMPORARY_PREFIX}*"))


def test_no_file_of_the_package_writes_past_io(tmp_path) -> None:
    """But for scratch files that have no name, the lists of written files, and os.devnull."""
    past = re.compile(
        r"\.open\(\"[wax]|open\([^)]*\"[wax]b?\"|\.write_text\(|\.write_bytes\(|np\.save\w*\(\w*path"
    )
    known = {"atomic.py", "ledger.py", "terminal.py"}
    package = Path(atomic.__file__).resolve().parents[1]
    caught = {file.name for file in package.rglob("*.py") if past.search(file.read_text())}
    assert caught == known
