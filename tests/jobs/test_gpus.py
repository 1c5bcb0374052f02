"""`--gpus N` without a GPU: which process sees which one, processes that die, and what is rejected."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mambamed.cases import Case
from mambamed.errors import CaseError, RecipeError
from mambamed.jobs.gpus import GpuPool
from mambamed.preparation.pool import over_cases
from mambamed.progress import Silence
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS
from tests.jobs.gpu_work import die, gpu_of_two, threads
from tests.kills import ROOT, contents, spawned_by

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the devices are made up")
CASES = [Case(f"c{number}", ()) for number in range(5)]


def job(folder: Path, cases: int) -> list[str]:
    """Arguments of a prediction that chooses its device."""
    arguments = JOBS["predict"](folder, cases)
    number = arguments.index("--device")
    return [*arguments[:number], *arguments[number + 2 :]]


@pytest.fixture
def three_gpus(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, {"0", "1"}), ("GPU-7, MIG-a,2", {"GPU-7", "MIG-a"}), ("5,4,3", {"5", "4"})],
)
def test_each_process_sees_one_of_the_visible_gpus(
    visible, expected, three_gpus, monkeypatch, tmp_path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    work = [(case, tmp_path) for case in CASES[:2]]
    found = [answer for _, answer in over_cases(gpu_of_two, work, 2, Silence(), GpuPool(2))]
    (one, gpu), (other, second) = (each for each in found if not isinstance(each, CaseError))
    assert one != other and {gpu, second} == expected


def test_each_process_has_its_share_of_the_cores_unless_the_environment_says_more(
    three_gpus, monkeypatch
) -> None:
    monkeypatch.setattr("mambamed.jobs.gpus.cores", lambda: 6)
    for given, expected in ((None, "3"), ("5", "5")):
        monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("MKL_NUM_THREADS", given)
        work = [(case,) for case in CASES[:2]]
        assert [each for _, each in over_cases(threads, work, 2, Silence(), GpuPool(2))] == [expected] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_case_whose_process_dies_is_done_alone_and_then_named(three_gpus, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    work = [(case, tmp_path) for case in CASES]
    found = {case.id: answer for case, answer in over_cases(die, work, 2, Silence(), GpuPool(2))}
    fault = found.pop("c1")
    assert isinstance(fault, CaseError)
    assert "c1: its process was killed each time, possibly for lack of memory. Use fewer --gpus" in str(fault)
    assert found.keys() == {"c0", "c2", "c3", "c4"} and set(found.values()) <= {"6", "7"}
    assert len(list(tmp_path.glob("c1-*"))) == 2


def test_more_gpus_than_there_are_and_options_that_exclude_it_are_one_line(three_gpus, tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"--gpus 4: torch sees 3 CUDA devices\. Ask for fewer\."):
        GpuPool(4)
    arguments = job(tmp_path, 2)
    for more, line in (
        (("--gpus", "4"), "--gpus 4: torch sees 3 CUDA devices"),
        (("--gpus", "2", "--on", "local"), "--gpus: of this machine, not of --on"),
        (
            ("--gpus", "2", "--device", "cpu"),
            "--gpus 2: --device cpu is one device. Remove one of the options.",
        ),
    ):
        done = call(*arguments, "-o", str(tmp_path / "masks"), *more)
        assert done.code == 2 and done.line_with(line), line
    assert not (tmp_path / "masks").exists()


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_and_name_a_faulty_case(three_gpus, tmp_path) -> None:
    """No GPU is there, so that both compute on the CPU."""
    arguments = job(tmp_path, 3)
    (tmp_path / "images" / "broken.nii.gz").write_bytes(b"no image")
    for name, more in (("alone", ()), ("apart", ("--gpus", "2"))):
        done = call(*arguments, "-o", str(tmp_path / name), *more)
        assert done.code == 3 and done.line_with("broken")
    expected = contents(tmp_path / "alone", {"run.json"})
    assert len(expected) > 3 and contents(tmp_path / "apart", {"run.json"}) == expected


@pytest.mark.slow
def test_a_process_that_is_killed_once_loses_nothing(tmp_path) -> None:
    """The command as a user gives it, with made up devices; one of its processes is killed."""
    arguments = job(tmp_path, 24)
    assert call(*arguments, "-o", str(tmp_path / "alone")).code == 0
    expected, chance = contents(tmp_path / "alone", {"run.json"}), random.Random(0)
    for number in range(3):
        place = tmp_path / f"killed_{number}"
        words = [*arguments, "-o", str(place), "--gpus", "2"]
        code = (
            "import sys, torch\n"
            "if __name__ == '__main__':\n"
            "    torch.cuda.device_count = lambda: 2\n"
            f"    sys.argv = ['mambamed', *{words!r}]\n"
            "    from mambamed.cli import main\n"
            "    main()\n"
        )
        (tmp_path / "two_gpus.py").write_text(code)
        command = subprocess.Popen([sys.executable, str(tmp_path / "two_gpus.py")], cwd=ROOT)
        while command.poll() is None and len(list(place.glob("*.nii.gz"))) < 3 + 4 * number:
            time.sleep(0.02)
        if workers := spawned_by(command.pid):
            os.kill(chance.choice(workers), signal.SIGKILL)
        assert command.wait() == 0
        assert contents(place, {"run.json"}) == expected
