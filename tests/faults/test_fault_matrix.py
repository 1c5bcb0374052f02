"""The list of faults of the design, row by row, through the commands `prepare` and `predict`.

All files of one kind of verdict lie in one folder, so that every row also shows that the others were
finished. Verdicts and words are the list's; geometry and voxels of what is accepted are compared with
nibabel's in tests/io.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.errors import CaseError
from mambamed.io.images import read_header, write_image
from tests.answers.stubs import stub_run
from tests.faults.fault_files import (
    ACCEPTED,
    ACCEPTED_LABELS,
    LABEL,
    REJECTED,
    REJECTED_LABELS,
    VOXELS,
    WARNED,
    WARNED_LABELS,
    packed,
)

ROOT = Path(__file__).resolve().parents[2]
HEALTHY = ("healthy_1", "healthy_2", "healthy_3")
ROWS = [*REJECTED, *REJECTED_LABELS, *WARNED, *WARNED_LABELS, *ACCEPTED, *ACCEPTED_LABELS]
IMAGE_ROWS = [row for row in ROWS if not row.label]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, the lines of stderr, what it printed as JSON, its folder."""

    code: int
    lines: list[str]
    summary: dict
    output: Path


def mambamed(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mambamed", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("prepare")
    raw = folder / "raw"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    labels = {"background": 0, "one": 1, "two": 2}
    document = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(document))
    for number, name in enumerate(HEALTHY):
        (raw / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(packed(VOXELS + number))
        (raw / "labelsTr" / f"{name}.nii.gz").write_bytes(packed(LABEL))
    for number, row in enumerate(ROWS):
        image, label = raw / "imagesTr" / f"{row.name}_0000", raw / "labelsTr" / f"{row.name}.nii.gz"
        if row.label:
            image.with_name(f"{image.name}.nii.gz").write_bytes(packed(VOXELS + 10 + number))
            row.write(label)
            continue
        image = image.with_name(image.name + row.suffix)
        row.write(image)
        try:
            header = read_header(image)
        except CaseError:
            label.write_bytes(packed(LABEL))
            continue
        array = LABEL if header.shape == LABEL.shape else np.ones(header.shape, np.uint8)
        write_image(label, array, like=header)
    done = mambamed(
        *("prepare", raw, "-o", folder / "out", "--format", "nnunet"),
        *("--spacing", "keep", "--skip-faulty", "--no-qc", "--json", "-v"),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stderr.splitlines(), json.loads(done.stdout), folder / "out")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("predict")
    run = stub_run(folder / "run", patch_size=(8, 8, 8))
    images = folder / "images"
    images.mkdir()
    for name in HEALTHY:
        (images / f"{name}.nii.gz").write_bytes(packed())
    for row in IMAGE_ROWS:
        row.write(images / (row.name + row.suffix))
    done = mambamed(
        *("predict", run.root, images, "-o", folder / "out", "--json", "-v"),
        *("--device", "cpu", "--precision", "fp32", "--tta", "none", "--overlap", "0"),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stderr.splitlines(), json.loads(done.stdout), folder / "out")


def ids(rows) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("row", [*REJECTED, *REJECTED_LABELS], ids=lambda row: row.name)
def test_prepare_refuses_the_case_with_its_file_and_fact_and_finishes_the_others(prepared, row) -> None:
    assert prepared.code == 3
    file = f"{row.name}{'' if row.label else '_0000'}{row.suffix}"
    (line,) = [line for line in prepared.lines if f"/{file}:" in line]
    assert row.word in line.partition(f"/{file}:")[2]
    assert re.search(r"[\w)]\. [A-Z][^.]* [^ ].*\.$", line), "no sentence that says what to do"
    stored = {path.name.partition(".")[0] for path in (prepared.output / "cases").iterdir()}
    assert row.name not in stored and stored >= set(HEALTHY)


@pytest.mark.parametrize("row", REJECTED, ids=lambda row: row.name)
def test_predict_refuses_the_case_with_its_file_and_fact_and_finishes_the_others(predicted, row) -> None:
    assert predicted.code == 3
    (line,) = [line for line in predicted.lines if f"/{row.name}{row.suffix}:" in line]
    assert row.word in line.partition(f"/{row.name}{row.suffix}:")[2]
    assert not (predicted.output / f"{row.name}.nii.gz").exists()
    assert all((predicted.output / f"{name}.nii.gz").is_file() for name in HEALTHY)


@pytest.mark.parametrize("row", [*WARNED, *WARNED_LABELS], ids=lambda row: row.name)
def test_prepare_warns_with_the_file_and_uses_the_case(prepared, row) -> None:
    lines = [found["line"] for found in prepared.summary["findings"] if found["case"] == row.name]
    kinds = {found["kind"] for found in prepared.summary["findings"] if found["case"] == row.name}
    assert kinds == {"warning"}
    assert any(row.name in line and row.word in line for line in lines), lines
    assert (prepared.output / "cases" / f"{row.name}.b2nd").is_file()


@pytest.mark.parametrize("row", WARNED, ids=lambda row: row.name)
def test_predict_warns_with_the_file_and_writes_its_mask(predicted, row) -> None:
    assert any(f"/{row.name}{row.suffix}:" in line and row.word in line for line in predicted.lines)
    assert (predicted.output / f"{row.name}.nii.gz").is_file()


@pytest.mark.parametrize("row", [*ACCEPTED, *ACCEPTED_LABELS], ids=lambda row: row.name)
def test_prepare_takes_what_is_right_without_a_word(prepared, row) -> None:
    found = [f["line"] for f in prepared.summary["findings"] if f["case"] == row.name]
    assert [line for line in found if "duplicate" not in line] == []
    assert (prepared.output / "cases" / f"{row.name}.b2nd").is_file()


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.name)
def test_predict_answers_on_the_grid_of_what_is_right(predicted, row) -> None:
    mask = nib.load(predicted.output / f"{row.name}.nii.gz")
    original = nib.load(predicted.output.parent / "images" / f"{row.name}{row.suffix}")
    assert mask.shape == original.shape[:3]
    np.testing.assert_allclose(mask.affine, original.affine, atol=1e-4)


def test_files_placed_by_the_voxel_size_alone_keep_their_codes(predicted) -> None:
    header = nib.load(predicted.output / "no_place.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


def test_no_file_of_a_rejected_case_lies_under_a_final_name(prepared, predicted) -> None:
    stored = {path.name.partition(".")[0] for path in (prepared.output / "cases").iterdir()}
    assert not stored & {row.name for row in [*REJECTED, *REJECTED_LABELS]}
    names = {path.name for path in predicted.output.iterdir() if not path.name.startswith(".")}
    wanted = [*HEALTHY, *ids(WARNED), *ids(ACCEPTED)]
    tables = {"labels_itksnap.txt", "labels_slicer.ctbl"}
    assert names == {"run.json", *tables, *(f"{name}.nii.gz" for name in wanted)}
