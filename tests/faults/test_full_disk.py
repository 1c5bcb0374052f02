"""A disk that is really full: a tmpfs of a few KB under the output of each verb."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import pytest

from mambamed.io.images import read_image
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from tests.faults.in_process import call
from tests.faults.small_jobs import QUICK, evaluate_job, export_job, predict_job, prepare_job

JOBS = {"prepare": prepare_job, "predict": predict_job, "evaluate": evaluate_job, "export": export_job}


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs there; skips where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("a tmpfs is Linux's")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 16, 48])
@pytest.mark.parametrize("verb", JOBS)
def test_a_full_disk_is_one_line_and_what_lies_there_is_whole(verb, kilobytes, tmp_path) -> None:
    job = JOBS[verb](tmp_path)
    with mounted(tmp_path / "disk", f"size={kilobytes}k") as disk:
        done = call(*job, "-o", disk / "model.mambamed" if verb == "export" else disk / "out")
        if done.code == 0:
            pytest.skip(f"{verb} fits into {kilobytes} KB")
        assert done.code == 1, done
        assert "disk" in done.line_with("disk", "full") and str(disk) in done.line_with("disk", "full")
        for mask in disk.rglob("*.nii.gz"):
            assert read_image(mask).array.shape == nib.load(mask).shape
        assert not list(disk.rglob("dataset.json")) and not list(disk.rglob("*.mambamed"))
        assert not [path for path in disk.rglob(".tmp-*") if path.is_file()]


@pytest.fixture
def training(tmp_path):
    """Arguments of a training of two epochs, on four cases."""
    job = prepare_job(tmp_path / "data", 4)
    assert call(*job, "-o", tmp_path / "prepared").code == 0
    (tmp_path / "recipe.yaml").write_text(
        "task: classification\nnetwork: {name: resnet, channels: 2}\n"
        "training: {epochs: 1, steps_per_epoch: 1, batch_size: 2, patch_size: [16, 16, 16]}\n"
    )
    return ["train", tmp_path / "recipe.yaml", "-d", tmp_path / "prepared", *QUICK]


def test_a_disk_that_fills_while_training_leaves_the_previous_checkpoint(training, tmp_path) -> None:
    with mounted(tmp_path / "disk", "size=200m") as disk:
        done = call(*training, "-o", disk / "run")
        assert done.code == 0, done
        last = Run.open(disk / "run").checkpoint(0, "last")
        before, step = last.read_bytes(), read_checkpoint(last).facts["counters"]["step"]
        with (disk / "ballast").open("wb") as ballast:
            ballast.write(bytes(shutil.disk_usage(disk).free - len(before) // 2))
        longer = ["extend", disk / "run", "--epochs", "2", *QUICK]
        done = call(*longer)
        assert done.code == 1, done
        line = done.line_with("disk is full")
        assert str(disk) in line and "bytes are needed" in line
        assert last.read_bytes() == before
        (disk / "ballast").unlink()
        assert call(*longer).code == 0
        assert read_checkpoint(last).facts["counters"]["step"] > step


@pytest.mark.parametrize("verb", [*JOBS, "train"])
def test_an_output_that_cannot_be_written_is_said_before_any_work(verb, training, tmp_path) -> None:
    job = training if verb == "train" else JOBS[verb](tmp_path)
    with mounted(tmp_path / "disk", "ro,size=64k") as disk:
        done = call(*job, "-o", disk / "model.mambamed" if verb == "export" else disk / "out")
    assert done.code == 1 and len(done.lines) == 1, done
    assert "cannot be written" in done.lines[0] and str(disk) in done.lines[0]
