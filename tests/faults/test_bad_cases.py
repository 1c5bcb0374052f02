"""One bad case among good ones: the good ones are done, and one line names the file and the true cause."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.errors import CaseError
from mambamed.io.images import read_image
from tests.answers.stubs import stub_run
from tests.faults.fault_files import AFFINE, LABEL, VOXELS, packed
from tests.faults.in_process import call
from tests.faults.small_jobs import QUICK

PREDICT = ("--tta", "none", "--overlap", "0", *QUICK)
PREPARE = ("--workers", "1", "--no-qc", "-q")
COARSE = np.diag([100.0, 100.0, 100.0, 1.0])
RESAMPLED = "100 x 100 x 100 mm resampled to 1 x 1 x 1 mm"
NOT_UTF8 = os.fsdecode(b"caf\xe9")  # Latin-1, as on old Windows shares


def raw_dataset(folder: Path, cases: int = 3) -> Path:
    """An nnU-Net dataset of good cases."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    labels = {"background": 0, "one": 1, "two": 2}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels}))
    for number in range(cases):
        add_case(folder, f"good_{number}", packed(VOXELS + number), packed(LABEL))
    return folder


def add_case(folder: Path, name: str, image: bytes, label: bytes) -> None:
    (folder / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(image)
    (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(label)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return stub_run(tmp_path_factory.mktemp("bad") / "run", patch_size=(8, 8, 8)).root


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "good.nii.gz").write_bytes(packed())
    return folder


def test_a_case_of_coarse_voxels_is_named_by_prepare_with_its_size(tmp_path) -> None:
    raw = raw_dataset(tmp_path / "raw")
    add_case(raw, "coarse", packed(VOXELS + 7, COARSE), packed(LABEL, COARSE))
    asked = ("prepare", raw, "--spacing", "1,1,1", *PREPARE)
    words = (
        "coarse_0000.nii.gz",
        "100 x 100 x 100 mm resampled to 1 x 1 x 1 mm",
        "1400 x 1300 x 1200",
        "GiB",
    )
    refused = call(*asked, "-o", tmp_path / "none")
    assert refused.code == 2 and refused.line_with(*words) and not (tmp_path / "none").exists()
    done = call(*asked, "-o", tmp_path / "out", "--skip-faulty")
    assert done.code == 3 and done.line_with(*words)
    stored = {path.name.partition(".")[0] for path in (tmp_path / "out" / "cases").iterdir()}
    assert stored == {"good_0", "good_1", "good_2"}


def test_max_ram_limits_the_size_after_resampling(tmp_path) -> None:
    raw = raw_dataset(tmp_path / "raw")
    wide = np.diag([10.0, 10.0, 10.0, 1.0])  # 140 x 130 x 120 voxels of 12 bytes: 25 MiB
    add_case(raw, "wide", packed(VOXELS + 7, wide), packed(LABEL, wide))
    asked = ("prepare", raw, "--spacing", "1,1,1", "--check-only", *PREPARE)
    assert call(*asked, "--max-ram", "20M").line_with("wide_0000.nii.gz", "25.0 MiB", "20.0 MiB")
    assert call(*asked, "--max-ram", "30M").code == 0


def test_a_case_of_coarse_voxels_is_named_by_predict_with_its_size(run, images, tmp_path) -> None:
    (images / "coarse.nii.gz").write_bytes(packed(affine=COARSE))
    done = call("predict", run, images, "-o", tmp_path / "out", *PREDICT)
    assert done.code == 3 and (tmp_path / "out" / "good.nii.gz").is_file()
    assert done.line_with("/coarse.nii.gz", RESAMPLED, "1400 x 1300 x 1200")


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.diag([1e30, 1.0, 1.0, 1.0]), "1e+30x1x1"),
        (np.diag([1e-9, 1.0, 1.0, 1.0]), "1e-09x1x1"),
        (AFFINE + np.array([[0, 0, 0, 1e30]] + [[0.0] * 4] * 3), "origin"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "parallel"),
    ],
)
def test_an_absurd_affine_is_rejected_where_the_file_is_read(tmp_path, affine, word) -> None:
    path = tmp_path / "absurd.nii.gz"
    image = nib.Nifti1Image(VOXELS, None)
    image.set_sform(affine, code=1)
    path.write_bytes(gzip.compress(image.to_bytes()))
    with pytest.raises(CaseError, match=r"absurd\.nii\.gz: affine") as caught:
        read_image(path)
    assert word in str(caught.value)


@pytest.mark.parametrize("spacing", ["1e-300,1,1", "1,1,1e300", "nan,1,1"])
def test_a_spacing_that_no_scanner_has_is_rejected(tmp_path, spacing) -> None:
    done = call("prepare", raw_dataset(tmp_path / "raw"), "-o", tmp_path / "out", "--spacing", spacing)
    assert done.code == 2 and done.line_with("--spacing", "numbers in mm")


def named_in_latin_1(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError:
        pytest.skip("this file system has no such names")


def test_a_name_that_is_not_utf8_is_the_fault_of_its_case_alone(run, images, tmp_path) -> None:
    named_in_latin_1(images / f"{NOT_UTF8}.nii.gz", packed())
    for kept in (0, 1):
        done = call("predict", run, images, "-o", tmp_path / "out", "--statistics", *PREDICT)
        assert done.code == 3 and done.line_with("is not UTF-8")
        assert (tmp_path / "out" / "good.nii.gz").is_file()
        assert json.loads(call(*done_as_json(run, images, tmp_path)).stdout)["kept"] == 1, kept
    raw = raw_dataset(tmp_path / "raw")
    add_case(raw, NOT_UTF8, packed(VOXELS + 7), packed(LABEL))
    done = call("prepare", raw, "-o", tmp_path / "prepared", "--skip-faulty", *PREPARE)
    assert done.code == 3 and done.line_with("is not UTF-8")


def done_as_json(run: Path, images: Path, folder: Path) -> tuple[object, ...]:
    return ("predict", run, images, "-o", folder / "out", "--statistics", "--json", *PREDICT)


def test_folders_whose_names_are_not_utf8_are_used_like_others(run, tmp_path) -> None:
    folder = tmp_path / NOT_UTF8
    try:
        raw = raw_dataset(folder / "raw")
    except OSError:
        pytest.skip("this file system has no such names")
    for _ in range(2):
        assert call("prepare", raw, "-o", folder / "out", "--spacing", "keep", "--json").code == 0
        # "good_0_0000" is the first channel of "good_0".
        masks = call(
            "predict", run, raw / "imagesTr", "-o", folder / "masks", "--preview", "--json", *PREDICT
        )
        assert masks.code == 0
        scored = call("evaluate", folder / "masks", folder / "masks", "-o", folder / "scores", "--json")
        assert scored.code == 0
    assert json.loads((folder / "masks" / "run.json").read_text())["cases"]["good_0"]["status"] == "done"


def test_an_image_of_too_many_windows_is_rejected_with_their_number(run, images, tmp_path) -> None:
    inflated = np.zeros((300, 300, 300), np.uint8)
    inflated[::299, ::299, ::299] = 1
    (images / "inflated.nii.gz").write_bytes(packed(inflated, np.eye(4)))
    asked = ("predict", run, images, "-o", tmp_path / "out", *PREDICT)
    done = call(*asked, "--max-windows", "50000")
    # (300 / 8 rounded up) ^ 3 windows
    line = done.line_with("inflated", "300 x 300 x 300", "54872 windows", "50000")
    assert done.code == 3 and "--overlap" in line and (tmp_path / "out" / "good.nii.gz").is_file()
    done = call(*asked[: -len(PREDICT)], "--overwrite", "--tta", "none", "--overlap", "0.999999", *QUICK)
    assert done.code == 3 and done.line_with("inflated", f"{293**3} windows", "100000")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.symlink_to(path.name), "broken link"),
        (lambda path: path.symlink_to("/dev/zero"), "pipe or device"),
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read (Input/output error)"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: os.mkfifo(path), "pipe or device"),
    ],
    ids=["circle", "device", "unreadable", "folder", "pipe"],
)
@pytest.mark.parametrize("suffix", [".nii", ".mha"])
def test_what_is_no_file_is_named_and_the_others_are_done(run, images, tmp_path, make, word, suffix) -> None:
    make(images / f"odd{suffix}")
    done = call("predict", run, images, "-o", tmp_path / "out", *PREDICT)
    assert done.code == 3 and done.line_with(f"/odd{suffix}", word)
    assert (tmp_path / "out" / "good.nii.gz").is_file()


def test_a_file_that_vanishes_after_it_was_listed_is_named(run, images, tmp_path, monkeypatch) -> None:
    gone = images / "gone.nii.gz"
    gone.write_bytes(packed())
    import mambamed.jobs.job as job

    find = job.find_inputs

    def find_and_remove(*given, **named):
        cases = find(*given, **named)
        gone.unlink()
        return cases

    monkeypatch.setattr(job, "find_inputs", find_and_remove)
    done = call("predict", run, images, "-o", tmp_path / "out", *PREDICT)
    assert done.code == 3 and done.line_with("/gone.nii.gz", "No such file")
    assert (tmp_path / "out" / "good.nii.gz").is_file()


def test_a_header_of_negative_or_no_sizes_is_named(tmp_path) -> None:
    head = "ObjectType = Image\nNDims = 3\nDimSize = {}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    for sizes, word in (("4 0 4", "shape (4, 0, 4)"), ("4 99999999999 4", "claims"), ("4 -4 4", "claims")):
        path = tmp_path / "odd.mha"
        path.write_bytes(head.format(sizes).encode() + bytes(128))
        with pytest.raises(CaseError, match=r"odd\.mha: ") as caught:
            read_image(path)
        assert word in str(caught.value)


def test_a_claim_is_told_in_bytes(tmp_path) -> None:
    path = tmp_path / "short.nii"
    path.write_bytes(gzip.decompress(packed())[:-1000])
    with pytest.raises(CaseError) as caught:
        read_image(path)
    assert "size of 14 x 13 x 12 voxels, 4368 bytes, more than a file of 3720 bytes can" in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.float32, np.float64])
def test_a_label_beyond_all_integers_is_told_as_it_is(tmp_path, kind) -> None:
    raw, label = raw_dataset(tmp_path / "raw"), LABEL.astype(kind)
    label[0, 0, 0] = 2.0**62
    add_case(raw, "huge", packed(VOXELS + 7), packed(label))
    done = call("prepare", raw, "-o", tmp_path / "out", "--skip-faulty", *PREPARE)
    assert done.code == 3 and done.line_with("labelsTr/huge.nii.gz", "4611686018427387904")
