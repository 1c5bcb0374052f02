"""Cases in Dask workers: the same bytes as in one process, and no loss when workers are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import mambamed
from mambamed.cases import Case
from mambamed.cluster.destination import Destination
from mambamed.cluster.workers import _environment, open_workers
from mambamed.cores import THREADS
from mambamed.errors import CaseError, RecipeError, RunError
from mambamed.preparation.pool import over_cases
from tests.cluster.dying import die, wait
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, output_of
from tests.kills import ROOT, contents, spawned_by
from tests.told import Told

pytest.importorskip("dask_jobqueue")
# Times; the name of the folder of predictions is that of the evaluation's report.
DIFFER = {"run.json", "preds.run.json"}
# Each takes ten seconds of a core.
FURTHER = [pytest.param(verb, marks=pytest.mark.slow) for verb in ("prepare", "landmarks", "classify")]


@pytest.fixture(scope="module")
def workers() -> Iterator[str]:
    """The address by which commands reach two workers of this machine."""
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with LocalCluster(**options, env={"OMP_NUM_THREADS": "1"}) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(
    ("asked", "more", "expected"),
    [
        ({}, None, "2"),
        ({"OMP_NUM_THREADS": "1"}, None, "1"),  # else torch takes MKL's two threads
        ({"OMP_NUM_THREADS": "1"}, "cpus=4", "4"),
    ],
)
def test_all_libraries_of_a_worker_have_as_many_threads_as_openmp(asked, more, expected, monkeypatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    place = Destination.of("local", 1, more)
    assert set(_environment(place, 2).values()) == {expected}


@pytest.mark.parametrize("verb", ["predict", *FURTHER])
def test_two_workers_write_the_same_bytes_as_one_process(verb, workers, tmp_path) -> None:
    """Also if one of the images is damaged: it is named, and the others are done."""
    arguments, damaged = JOBS[verb](tmp_path, 3), verb != "prepare"
    if damaged:
        (tmp_path / "images" / "broken.nii.gz").write_bytes(b"no image")
    alone, apart = tmp_path / "alone", tmp_path / "apart"
    for place, more in ((alone, ()), (apart, ("--on", workers))):
        done = call(*arguments, "-o", output_of(verb, place), *more)
        assert done.code == (3 if damaged else 0)
        assert not damaged or done.line_with("broken")
    expected = contents(alone, DIFFER)
    assert len(expected) > 3 and contents(apart, DIFFER) == expected


def test_evaluate_writes_the_same_bytes(workers, tmp_path) -> None:
    arguments = JOBS["predict"](tmp_path, 3)
    references, masks = tmp_path / "references", tmp_path / "masks"
    for place in (references, masks):
        assert call(*arguments, "-o", str(place)).code == 0
    (masks / "run.json").unlink()
    broken = sorted(masks.glob("*.nii.gz"))[0]
    broken.write_bytes(b"no image")
    found = {}
    for name, more in (("alone", ()), ("apart", ("--on", workers))):
        asked = (str(masks), str(references), "-o", str(tmp_path / name), "--metrics", "dice,hd95")
        done = call("evaluate", *asked, *more)
        assert done.code == 3 and done.line_with(broken.name)
        found[name] = contents(tmp_path / name)
    assert found["alone"] == found["apart"] and "report.html" in found["alone"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_case_whose_worker_dies_is_tried_again_then_alone_then_named(tmp_path) -> None:
    told, cases = Told(), [Case(f"c{n}", ()) for n in range(5)]
    with open_workers(Destination("local", jobs=2)) as pool:
        work = [(case, tmp_path) for case in cases]
        found = {case.id: answer for case, answer in over_cases(die, work, 2, told, pool)}
    assert isinstance(found.pop("c1"), CaseError) and found == {n: n for n in ("c0", "c2", "c3", "c4")}
    assert "c2: its worker was killed; a further attempt succeeded" in told.lines
    # once more in another worker, then alone: the scheduler counts that as a failure or as a new task
    assert len(list(tmp_path.glob("c1-*"))) in (3, 4)


def test_a_scheduler_that_ends_during_the_work_is_one_line(tmp_path) -> None:
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", "processes": False}
    cluster = LocalCluster(**options)
    with (
        pytest.raises(RunError, match="connection to the Dask scheduler was lost"),
        open_workers(Destination(cluster.scheduler_address)) as pool,
    ):
        for number, _ in enumerate(
            over_cases(wait, [(Case(f"c{n}", ()),) for n in range(9)], 1, Told(), pool)
        ):
            assert number < 3
            if number == 0:
                cluster.close()


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        ("Nanny failed to start worker process", "a worker ended while it started. If memory is short"),
        ("[Errno 98] Address already in use", r"cannot be started: \[Errno 98\] Address already in use"),
    ],
)
def test_why_the_workers_of_this_machine_do_not_start(cause, line, monkeypatch) -> None:
    starts = []

    def broken(**_: object) -> None:
        starts.append(1)
        raise RuntimeError("Nanny failed to start.") from RuntimeError(cause)

    monkeypatch.setattr("distributed.LocalCluster", broken)
    with pytest.raises(RunError, match=line), open_workers(Destination("local", jobs=1)):
        pass
    assert len(starts) == (3 if "Nanny" in cause else 1)


def test_what_cannot_be_reached_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mambamed.cluster.workers._CONNECT_SECONDS", 0.2)
    with (
        pytest.raises(RunError, match="no scheduler with workers answers"),
        open_workers(Destination("tcp://127.0.0.1:9")),
    ):
        pass
    for on, job, line in (("slurm", None, "the number of workers is missing. Give --jobs N"),):
        with pytest.raises(RecipeError, match=line), open_workers(Destination(on, jobs=job)):
            pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="sbatch: no such command"), open_workers(Destination("slurm", jobs=2)):
        pass
    with pytest.raises(RecipeError, match="--jobs: needs --on"):
        mambamed.evaluate(tmp_path, tmp_path, jobs=2)


@pytest.mark.parametrize("verb", ["prepare", pytest.param("predict", marks=pytest.mark.slow)])
def test_dask_is_imported_only_when_it_is_asked_for(verb, tmp_path) -> None:
    arguments = JOBS[verb](tmp_path, 4)
    code = (
        "import sys\n"
        f"sys.argv = ['mambamed', *{[*arguments, '-o', str(tmp_path / 'out')]!r}]\n"
        "from mambamed.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('imported:', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.rpartition("imported:")[2].split())
    assert "mambamed.preparation.pool" in imported
    assert not imported & {"dask", "distributed", "dask_jobqueue"}
    assert len(contents(tmp_path / "out")) > 3


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["prepare", "predict", "landmarks", "classify", "evaluate"])
def test_workers_killed_at_20_moments_lose_nothing(verb, tmp_path) -> None:
    """Twenty SIGKILLs in runs over 24 cases, up to four in each.

    The first one falls into the start or the work of a run, each further one after another result, so that no
    case loses more than two workers. `evaluate` writes at its end: two per run.
    """
    arguments, chance = JOBS[verb](tmp_path, 24), random.Random(0)
    assert call(*arguments, "-o", output_of(verb, tmp_path / "whole")).code == 0
    expected, kills, number = contents(tmp_path / "whole", DIFFER), 0, 0
    each = 2 if verb == "evaluate" else 4
    while kills < 20:
        number += 1
        assert number <= 30, f"only {kills} kills met a worker"
        place = tmp_path / f"killed_{number}"
        words = [*arguments, "-o", output_of(verb, place), "--on", "local", "--jobs", "2"]
        command = subprocess.Popen(
            [sys.executable, "-m", "mambamed", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        while command.poll() is None and not spawned_by(command.pid):
            time.sleep(0.02)
        moment = chance.uniform(0, 6)
        for _ in range(min(each, 20 - kills)):
            time.sleep(moment)
            if workers := spawned_by(command.pid):
                os.kill(chance.choice(workers), signal.SIGKILL)
                kills += 1
            written = len(contents(place))
            while verb != "evaluate" and command.poll() is None and len(contents(place)) == written:
                time.sleep(0.05)
            moment = chance.uniform(0, 2)
        assert command.wait() == 0, f"{verb} {number}"
        assert contents(place, DIFFER) == expected
