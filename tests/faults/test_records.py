"""What a run leaves of itself, and what it must not: versions, command, seed and warnings; nobody's name.

The images are DICOM series whose headers hold a marker wherever a person could stand, and NIfTI files with
it in the fields of free text; every file that prepare, train, export, predict and evaluate write is searched.
"""

from __future__ import annotations

import gzip
import io
import json
import locale
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.answers.stubs import stub_run
from tests.faults.fault_files import VOXELS, packed
from tests.faults.in_process import Answer, call
from tests.faults.small_jobs import QUICK

MARKER = "Zzmarkerson"
_PERSONAL = {
    "0010|0010": f"{MARKER}^Ann",  # PatientName
    "0010|0020": f"{MARKER}-4711",  # PatientID
    "0010|1001": f"{MARKER}^Other",  # OtherPatientNames
    "0010|4000": f"{MARKER} comments",  # PatientComments
    "0010|21b0": f"{MARKER} history",  # AdditionalPatientHistory
    "0008|0090": f"Dr^{MARKER}",  # ReferringPhysicianName
    "0008|0080": f"{MARKER} Hospital",  # InstitutionName
    "0008|0050": f"{MARKER}1",  # AccessionNumber
    "0008|1030": f"study of {MARKER}",  # StudyDescription
    "0008|1070": f"Op^{MARKER}",  # OperatorsName
    "0032|1060": f"{MARKER} procedure",  # RequestedProcedureDescription
}


def write_dicom(folder: Path, number: int, left_out: int | None = None) -> None:
    """Eight slices of the volume, with the marker in every tag of a person."""
    folder.mkdir(parents=True)
    before = locale.setlocale(locale.LC_CTYPE)
    for step in range(8):
        if step == left_out:
            continue
        image = sitk.GetImageFromArray((VOXELS[:, :, step].T + number)[None])
        tags = {
            "0008|0060": "MR",
            "0018|0050": "1.5",
            "0020|000d": "1.2.826.0.1.3680043.2.1125",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.{number}",
            "0020|0032": f"0\\0\\{step * 1.5}",
            "0020|0052": "1.2.826.0.1.3680043.2.1125.99",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(step),
        }
        for key, value in {**tags, **_PERSONAL}.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{step}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_CTYPE, before)  # GDCM's writer leaves it as "C"


def texts_of(data: bytes) -> list[bytes]:
    """The bytes, and those of everything that is packed in them."""
    if data[:2] == b"\x1f\x8b":
        return [data, gzip.decompress(data)]
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [data, *(text for name in archive.namelist() for text in texts_of(archive.read(name)))]
    return [data]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """All verbs on the marked images; their answers by verb, and the folder of what they wrote."""
    folder = tmp_path_factory.mktemp("records")
    rows = []
    for number in range(4):
        write_dicom(folder / "raw" / f"c{number}", number)
        rows.append(f"c{number},c{number},{'ill' if number % 2 else 'well'}")
    write_dicom(folder / "raw" / "gap", 9, left_out=3)
    marked = packed(
        VOXELS + 40, descrip=MARKER.encode(), aux_file=MARKER.encode(), db_name=MARKER.encode()[:17]
    )
    (folder / "raw" / "n.nii.gz").write_bytes(marked)
    constant = packed(VOXELS * 0 + 7, intent_name=MARKER.encode())
    (folder / "raw" / "flat.nii.gz").write_bytes(constant)
    rows += ["gap,gap,ill", "n,n.nii.gz,ill", "flat,flat.nii.gz,well"]
    (folder / "raw" / "cases.csv").write_text("\n".join(["case,T1,class", *rows, ""]))
    (folder / "recipe.yaml").write_text(
        "task: classification\nnetwork: {name: resnet, channels: 2}\n"
        "training: {epochs: 1, steps_per_epoch: 2, batch_size: 2, patch_size: [16, 16, 16],"
        " seed: 5}\n"
    )
    out, answers = folder / "out", {}
    answers["prepare"] = call(
        *("prepare", folder / "raw" / "cases.csv", "-o", out / "prepared", "--skip-faulty"),
        *("--workers", "1", "--folds", "2", "--json"),
    )
    answers["train"] = call(
        "train", folder / "recipe.yaml", "-d", out / "prepared", "-o", out / "run", "--json", *QUICK
    )
    answers["export"] = call("export", out / "run", "-o", out / "m.mambamed", "--json")
    answers["classify"] = call(
        "classify", out / "m.mambamed", folder / "raw" / "cases.csv", "-o", out / "p.csv", *QUICK
    )
    answers["evaluate"] = call("evaluate", out / "p.csv", folder / "raw" / "cases.csv", "-o", out / "e")
    run = stub_run(out / "masks_run", patch_size=(8, 8, 8))
    wanted = ("--preview", "--save-probabilities", "--statistics", "--tta", "none")
    (folder / "images").mkdir()
    (folder / "images" / "n.nii.gz").write_bytes(marked)
    (folder / "images" / "flat.nii.gz").write_bytes(constant)
    for name, images in (("dicom", folder / "raw" / "c0"), ("nifti", folder / "images")):
        answers[f"predict {name}"] = call("predict", run.root, images, "-o", out / name, *wanted, *QUICK)
    answers["predict gap"] = call("predict", run.root, folder / "raw" / "gap", "-o", out / "gap", *QUICK)
    return answers, out


def test_every_verb_did_its_work(work) -> None:
    answers, _ = work
    codes = {verb: answer.code for verb, answer in answers.items()}
    faulty = {"prepare": 3, "classify": 3, "predict gap": 3, "evaluate": 3}
    assert codes == {verb: faulty.get(verb, 0) for verb in answers}, answers


def test_no_word_of_a_patient_reaches_a_file_or_the_terminal(work) -> None:
    answers, out = work
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".gz", ".json", ".csv", ".html", ".png", ".npz", ".b2nd"}
    assert {path.name for path in files} >= {"train.log", "m.mambamed", "checkpoint_best.safetensors"}
    for path in files:
        for text in texts_of(path.read_bytes()):
            assert MARKER.encode() not in text and MARKER.encode("utf-16-le") not in text, path
            assert MARKER[:8].encode() not in text, path
    for answer in answers.values():
        assert MARKER not in answer.stdout and not any(MARKER in line for line in answer.lines)


def test_the_dicom_seg_of_a_patient_is_the_one_output_that_names_him(work) -> None:
    """The standard wants it in the patient's study; nothing else beside it does."""
    pytest.importorskip("highdicom", reason="writing DICOM needs the extra dicom")
    _, out = work
    asked = ("--format", "dicom-seg", "--tta", "none", *QUICK)
    done = call("predict", out / "masks_run", out.parent / "raw" / "c1", "-o", out.parent / "seg", *asked)
    assert done.code == 0, done
    named = [path.suffix for path in (out.parent / "seg").iterdir() if MARKER.encode() in path.read_bytes()]
    assert named == [".dcm"]


def test_a_training_records_what_it_was(work) -> None:
    _, out = work
    record = json.loads((out / "run" / "run.json").read_text())["folds"]["0"]
    (session,) = record["sessions"]
    assert record["seed"] == 5 and record["steps"] == 2
    assert {"device", "precision", "scan_backend"} <= set(session) and session["command"]
    predicted = json.loads((out / "nifti" / "run.json").read_text())
    classified = json.loads((out / "p.run.json").read_text())
    for document in (session, predicted, classified):
        assert {"mambamed", "python", "torch", "numpy"} <= set(document["versions"])
        assert {"command", "git_commit", "platform"} <= set(document)
    log = (out / "run" / "fold_0" / "train.log").read_text().splitlines()
    assert log and all(line[:4].isdecimal() and "T" in line[:20] for line in log)
    assert predicted["version"] and predicted["settings"] and predicted["reasons"]
    assert "constant" in " ".join(predicted["cases"]["flat"]["warnings"])


def test_a_fault_is_one_line_and_with_v_a_traceback(tmp_path) -> None:
    quiet = call("predict", tmp_path / "none", tmp_path, "-o", tmp_path / "out")
    assert quiet.code == 2 and len(quiet.lines) == 1 and isinstance(quiet, Answer)
    verbose = call("predict", tmp_path / "none", tmp_path, "-o", tmp_path / "out", "-v")
    assert verbose.code == 2 and verbose.lines[-1] == quiet.lines[0]
    verbose.line_with("Traceback")


def test_the_marker_is_found_where_it_is(work) -> None:
    """The search itself: in the images it finds the marker."""
    _, out = work
    found = [
        np.any([MARKER[:8].encode() in text for text in texts_of(path.read_bytes())])
        for path in (out.parent / "raw").rglob("*")
        if path.is_file() and path.suffix in {".dcm", ".gz"}
    ]
    assert all(found) and len(found) == 4 * 8 + 7 + 2
