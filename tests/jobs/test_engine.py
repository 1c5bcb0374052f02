"""The engine reads and writes cases in whatever executor it is given, with the same results."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mambamed.answers.mask_files import MaskOptions
from mambamed.answers.segmentation import SegmentationAnswer
from mambamed.converters.inputs import find_inputs
from mambamed.jobs.engine import run_cases
from mambamed.jobs.output import OutputFolder
from mambamed.jobs.record import Record
from mambamed.progress import Silence
from mambamed.volumes.ensemble import Ensemble, Serving, load_ensemble
from tests.answers.stubs import stub_run, write_blobs


class Immediately(Executor):
    """Does the work when it is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Ensemble:
    run = stub_run(tmp_path_factory.mktemp("engine") / "run", patch_size=(8, 8, 8))
    return load_ensemble([run.root], Serving(device="cpu", precision="fp32", tta="none", overlap=0.0))


def masks(ensemble: Ensemble, images: Path, output: Path, executor: Executor | None) -> dict[str, bytes]:
    answer = SegmentationAnswer.of(ensemble, MaskOptions(statistics=True))
    place = OutputFolder(output, "folder of masks", (".nii.gz",))
    cases = find_inputs(images, ["a"])
    output.mkdir()
    record = Record(place, answer.settings, (), cases, overwrite=False)
    run_cases(answer, ensemble, cases, record, Silence(), executor)
    assert set(record.faults) == {"broken"}
    assert [record.holds(case) for case in cases] == [False, True, True, True]
    return {path.name: path.read_bytes() for path in output.glob("case_*")}


def test_every_executor_writes_the_same(ensemble, tmp_path) -> None:
    images = tmp_path / "images"
    write_blobs(images, 3)
    (images / "broken.nii.gz").write_bytes(b"no image")
    expected = masks(ensemble, images, tmp_path / "default", None)
    assert len(expected) == 6
    assert masks(ensemble, images, tmp_path / "now", Immediately()) == expected
    with ThreadPoolExecutor(1) as threads:
        assert masks(ensemble, images, tmp_path / "threads", threads) == expected
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        assert masks(ensemble, images, tmp_path / "processes", processes) == expected


def test_an_error_of_the_writer_ends_the_engine(ensemble, tmp_path, monkeypatch) -> None:
    write_blobs(tmp_path / "images", 2)

    def full(self: Any, ready: Any, parts: Any, folder: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentationAnswer, "write", full)
    for number, executor in enumerate((None, Immediately())):
        with pytest.raises(OSError, match="No space left"):
            masks(ensemble, tmp_path / "images", tmp_path / f"out_{number}", executor)
