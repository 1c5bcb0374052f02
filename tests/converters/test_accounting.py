"""Accounts of folders made by hand; the counts are those of the files that were written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.converters.accounting import account_of, files_of
from mambamed.converters.inputs import find_inputs
from mambamed.io.ledger import LEDGER_NAME
from tests.answers.stubs import stub_run, write_blobs
from tests.converters.small_images import write_small
from tests.faults.in_process import call
from tests.io.pydicom_series import some_voxels, write_axial, write_slice

pytest.importorskip("pydicom")
CPU = ("--device", "cpu", "--precision", "fp32", "--tta", "none")


def line_of(source: Path, used=()) -> str:
    return account_of(source, used).line


def test_every_file_is_read_or_named_by_kind(tmp_path) -> None:
    write_axial(tmp_path / "p1", [0, 2, 4])
    for number in range(11):
        (tmp_path / f"note{number}.txt").touch()
    (tmp_path / "x.dcm").write_bytes(b"cut off")
    cases = find_inputs(tmp_path, ["CT"])
    account = account_of(tmp_path, files_of(cases))
    assert (account.files_read, account.line) == (3, "12 other files: 11 .txt, 1 unreadable DICOM x.dcm")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("scan.mgz", b"x", "1 .mgz (format not read) scan.mgz"),
        ("sub/deep/b.nii.gz", b"x", "1 image sub/deep/b.nii.gz"),
        ("a.seg.nrrd", b"x", "1 segmentation a.seg.nrrd"),
        ("p.mrk.json", b"{}", "1 point file p.mrk.json"),
        ("p.fcsv", b"", "1 point file p.fcsv"),
        ("README", b"", "1 without suffix"),
        ("data.XYZ", b"", "1 .xyz"),
        ("magic", b"\0" * 128 + b"DICM", "1 unreadable DICOM magic"),
    ],
)
def test_what_was_not_read_has_its_kind(tmp_path, name, content, kind) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert line_of(tmp_path) == f"1 other file: {kind}"


def test_dicom_that_was_not_read_has_its_kind(tmp_path) -> None:
    write_axial(tmp_path / "ct", [0, 2, 4])
    plan = dict.fromkeys(("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"))
    for name, kind in (("rt", "481.3"), ("sr", "88.11")):
        uid = f"1.2.840.10008.5.1.4.1.1.{kind}"
        write_slice(tmp_path / name, 0, some_voxels(1)[0], SOPClassUID=uid, **plan)
    expected = (
        "5 other files: 3 DICOM images ct/1.dcm, ct/2.dcm and 1 more, 1 DICOM RTSTRUCT rt, 1 DICOM report sr"
    )
    assert line_of(tmp_path) == expected


def test_links_that_lead_nowhere_and_pipes_are_named(tmp_path) -> None:
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "none")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    expected = "3 other files: 2 broken links circle, gone.nii.gz, 1 pipe or device pipe"
    assert line_of(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    assert "1 folder that cannot be listed shut" in line_of(tmp_path)


def test_hidden_files_and_those_of_mambamed_are_left_out(tmp_path) -> None:
    for name in (".DS_Store", ".git/config", "out/a.nii.gz", "out/fold/log.csv", "out/mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = [{"format": 1, "kind": "folder of masks"}, "a.nii.gz", "fold/log.csv"]
    (tmp_path / "out" / LEDGER_NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert line_of(tmp_path) == "1 other file: 1 .txt"


def test_an_account_survives_json() -> None:
    from mambamed.documents.account import Account

    account = Account.checked({"files_read": 1, "other": [{"kind": ".txt", "count": 2, "files": []}]}, "x")
    assert account.line == "2 other files: 2 .txt" and Account.checked(account.to_json(), "x") == account


def dataset(root: Path) -> None:
    """nnU-Net's layout: cases a, b; an image without a list, a label and notes that nobody reads."""
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b", "imagesTs/c_0000"):
        write_small(root / f"{name}.nii.gz", value="label" in name, seed=ord(name[9]))
    labels = {"background": 0, "organ": 1}
    document = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(document))
    (root / "imagesTr" / "notes.txt").touch()


def test_converters_count_what_they_read(tmp_path) -> None:
    dataset(tmp_path)
    account = convert(tmp_path).account
    assert account is not None
    assert (account.files_read, account.line) == (5, "2 other files: 1 .txt, 1 image imagesTs/c_0000.nii.gz")


def test_prepare_records_the_account(tmp_path) -> None:
    from mambamed.documents.prepared import PreparedIndex
    from mambamed.preparation.prepare import prepare

    dataset(tmp_path / "raw")
    said: list[str] = []

    class Heard:
        def say(self, line: str) -> None:
            said.append(line)

        def start(self, *_: object) -> None: ...
        def advance(self, *_: object, **__: object) -> None: ...

    summary = prepare(convert(tmp_path / "raw"), tmp_path / "out", qc=False, workers=1, progress=Heard())  # type: ignore[arg-type]
    line = "2 other files: 1 .txt, 1 image imagesTs/c_0000.nii.gz"
    assert said[0] == f"{tmp_path / 'raw'}: {line}"
    assert summary.account is not None and summary.account.line == line
    assert PreparedIndex.read(tmp_path / "out" / "dataset.json").account == summary.account


def test_a_list_accounts_for_its_own_files(tmp_path) -> None:
    write_axial(tmp_path / "p1", [0, 2, 4])
    (tmp_path / "l.csv").write_text("case,CT,class\na,p1,x\nb,p1,y\n")
    (tmp_path / "other.txt").touch()
    account = convert(tmp_path / "l.csv").account
    assert account is not None and account.line == ""


def test_many_files_are_accounted_for_quickly(tmp_path) -> None:
    """Each file that was read costs a look into a table, and each other one is opened once."""
    import time

    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.txt").touch()
    began = time.perf_counter()
    account = account_of(folder, (folder / f"{number}.txt" for number in range(0, 3000, 2)))
    assert (account.files_read, account.other[0].count) == (1500, 1500)
    assert time.perf_counter() - began < 2


def test_predict_and_evaluate_account_for_every_file(tmp_path) -> None:
    """Two NIfTI images next to a DICOM series, an image in a subfolder, and a text."""
    run = stub_run(tmp_path / "run")
    images = tmp_path / "images"
    write_blobs(images, 2)
    write_axial(images / "ct", [0, 2, 4])
    (images / "sub").mkdir()
    first = sorted(images.glob("*.nii.gz"))[0]
    (images / "sub" / "x.nii.gz").write_bytes(first.read_bytes())
    (images / "a.txt").touch()
    line = "5 other files: 3 DICOM images ct/1.dcm, ct/2.dcm and 1 more, 1 .txt, 1 image sub/x.nii.gz"
    done = call("predict", run.root, images, "-o", tmp_path / "out", *CPU)
    assert done.code == 0
    assert done.line_with("other files") == f"{images}: {line}"
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())["account"]
    assert recorded["files_read"] == 2
    assert {each["kind"]: each["count"] for each in recorded["other"]} == {
        "DICOM image": 3,
        ".txt": 1,
        "image": 1,
    }
    again = call("predict", run.root, images, "-o", tmp_path / "out", *CPU, "--json")
    assert json.loads(again.stdout)["account"] == recorded

    masks = tmp_path / "out"
    (masks / "notes.txt").touch()
    scored = call("evaluate", masks, masks, "-o", tmp_path / "scores")
    told = f"{masks}: 1 other file: 1 .txt"
    assert scored.code == 0 and told in scored.stdout
    settings = json.loads((tmp_path / "scores" / "summary.json").read_text())["settings"]
    assert settings["other_files"] == [told]
