"""`--scan` from the command to the scan itself, in every process that computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

import mambamed
from mambamed import api
from mambamed.errors import RecipeError
from mambamed.jobs import in_workers
from mambamed.preparation.pool import Workers
from mambamed.ssm import BACKENDS, chosen_backend, chunked, scan
from mambamed.training.launch import words_of
from tests.answers.stubs import stub_run, write_blobs
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, QUICK, output_of

MAMBA = {"name": "nnmamba", "channels": 4}
LINE = "scan backend chunked: set by --scan"


@pytest.fixture
def scans(monkeypatch) -> list[int]:
    """The lengths of the scans that the backend `chunked` computes in this process."""
    lengths: list[int] = []
    forward = chunked.scan_forward

    def noted(u: Any, *others: Any) -> Any:
        lengths.append(u.shape[2])
        return forward(u, *others)

    monkeypatch.setattr(chunked, "scan_forward", noted)
    return lengths


def words(verb: str, folder: Path) -> list[str]:
    if verb != "predict":
        return JOBS[verb](folder, 1)
    run = stub_run(folder / "run", network=MAMBA)
    write_blobs(folder / "images", 1)
    return ["predict", str(run.root), str(folder / "images"), "--tta", "none", *QUICK]


def reasons_in(place: Path) -> list[str]:
    (path,) = [path for path in place.rglob("*run.json") if not path.name.startswith(".")]
    return json.loads(path.read_text())["reasons"]


def test_the_option_has_the_names_of_the_table() -> None:
    assert get_args(api.Scan) == ("auto", *BACKENDS)


@pytest.mark.parametrize("verb", ["predict", "landmarks", "classify"])
def test_cases_are_scanned_by_the_backend_of_the_option_which_is_recorded(verb, scans, tmp_path) -> None:
    given = words(verb, tmp_path)
    assert call(*given, "-o", output_of(verb, tmp_path / "auto")).code == 0
    assert not scans and not any("--scan" in line for line in reasons_in(tmp_path / "auto"))
    before = chosen_backend("cpu")
    assert call(*given, "-o", output_of(verb, tmp_path / "asked"), "--scan", "chunked").code == 0
    assert scans and LINE in reasons_in(tmp_path / "asked")
    assert chosen_backend("cpu") == before


@pytest.mark.parametrize(
    ("name", "required"),
    [("best", ([],)), ("bids", ("in", "out", "participant", [])), ("extend", ("run", 2))],
)
def test_other_commands_with_networks_hand_it_on(name, required, monkeypatch, tmp_path) -> None:
    asked: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        asked.append(name)
        raise RecipeError("noted")
        yield

    stub_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mambamed.run.workplace.scan_option", noted)
    with pytest.raises(RecipeError, match="noted"):
        getattr(api, name)(*required, scan="chunked")
    assert asked == ["chunked"]


def test_processes_and_jobs_of_a_training_get_the_option() -> None:
    assert words_of({"recipe": "r.yaml", "scan": "triton", "gpus": 2}) == [
        "train",
        "r.yaml",
        "--scan",
        "triton",
    ]


class _Elsewhere(Executor):
    """Runs what it is given as a new process would: without the option of this one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        asked, scan._asked = scan._asked, "auto"
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        finally:
            scan._asked = asked
        return future


class _Pool:
    queue, breaks, worker = 1, False, "worker"

    @contextmanager
    def open(self, number: int) -> Iterator[Executor]:
        yield _Elsewhere()

    def remedy(self) -> str:
        return ""


def test_workers_get_the_option_with_each_case(scans, monkeypatch, tmp_path) -> None:
    run = stub_run(tmp_path / "run", network=MAMBA)
    write_blobs(tmp_path / "images", 2)

    @contextmanager
    def pool(*given: Any, **options: Any) -> Iterator[Workers]:
        yield Workers(_Pool(), 1)

    monkeypatch.setattr(api, "_workers", pool)
    quick = {"device": "cpu", "precision": "fp32", "tta": "none"}
    mambamed.predict(run.root, tmp_path / "images", tmp_path / "out", scan="chunked", on="local", **quick)
    assert scans and LINE in reasons_in(tmp_path / "out")
    in_workers._loaded.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("place", [("--on", "local", "--jobs", "1"), ("--gpus", "2")])
def test_real_workers_record_it(place, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    given = [word for word in words("predict", tmp_path) if word not in ("--device", "cpu")]
    assert call(*given, "-o", str(tmp_path / "out"), "--scan", "chunked", *place).code == 0
    assert LINE in reasons_in(tmp_path / "out")


def test_a_backend_that_cannot_serve_is_one_line_before_any_work(monkeypatch, tmp_path) -> None:
    given = [*words("predict", tmp_path), "-o", tmp_path / "out", "--scan"]
    monkeypatch.setattr("mambamed.run.workplace.why_unavailable", lambda name: f"no {name}")
    for more in ((), ("--gpus", "2")):
        done = call(*given, "triton", *more)
        line = "mambamed: --scan triton: cannot be used here: no triton. Choose another backend, or auto."
        assert done.code == 2 and done.lines == [line]
    done = call(*given, "fast")
    assert done.code == 2 and "'fast' is not one of" in " ".join(done.lines)
    assert not (tmp_path / "out").exists()
