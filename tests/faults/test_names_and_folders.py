"""Names and folders of the list of faults: what a folder may hold, and how its cases may be called."""

from __future__ import annotations

import json
import shutil

import pytest

from mambamed.api import predict
from mambamed.converters import convert
from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from mambamed.preparation.prepare import prepare
from tests.answers.stubs import stub_run
from tests.faults.fault_files import LABEL, VOXELS, packed

DOCUMENT = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "one": 1, "two": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def raw(tmp_path):
    """An nnU-Net folder of three cases with two channels."""
    folder = tmp_path / "raw"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    (folder / "dataset.json").write_text(json.dumps(DOCUMENT))
    for number in range(3):
        add_case(folder, f"good_{number}", number)
    return folder


def add_case(folder, name, number=5) -> None:
    for channel in range(2):
        data = packed(VOXELS + 10 * number + channel)
        (folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz").write_bytes(data)
    (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(packed(LABEL))


def prepared(folder, output):
    return prepare(
        convert(folder, format="nnunet"),
        output,
        spacing="keep",
        qc=False,
        workers=1,
        skip_faulty=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stub_run(tmp_path_factory.mktemp("names") / "run", patch_size=(8, 8, 8))


def predicted(run, images, output):
    return predict([run.root], images, output, device="cpu", precision="fp32", tta="none", overlap=0.0)


STRANGE = ["ünï cödé 脳", 'it\'s "quoted" & <b>', "-o", "--help", "a.b.c", "%s{0}%d", "n" * 200, "$(touch x)"]


def test_strange_names_are_prepared_and_predicted_like_any_other(raw, run, tmp_path) -> None:
    for number, name in enumerate(STRANGE):
        add_case(raw, name, number + 3)
    summary = prepared(raw, tmp_path / "prepared")
    assert summary.faults == () and summary.cases == 3 + len(STRANGE)
    images = tmp_path / "images"
    images.mkdir()
    for name in STRANGE:
        (images / f"{name}.nii.gz").write_bytes(packed())
    assert predicted(run, images, tmp_path / "out").faults == ()
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{n}.nii.gz" for n in STRANGE}


@pytest.mark.parametrize("name", ["two\nlines", "=HYPERLINK(evil)", "\x1b[31mred"])
def test_a_name_that_would_break_a_log_or_run_in_a_spreadsheet_is_refused_and_the_rest_is_done(
    raw, run, tmp_path, name
) -> None:
    add_case(raw, name)
    (line,) = prepared(raw, tmp_path / "prepared").faults
    shown = repr(name)[1:-1]
    assert shown in line and "Rename" in line and line.isprintable()
    images = tmp_path / "images"
    images.mkdir()
    for each in (name, "good"):
        (images / f"{each}.nii.gz").write_bytes(packed())
    summary = predicted(run, images, tmp_path / "out")
    assert summary.cases == ("good",)
    (line,) = summary.faults
    assert shown in line and "Rename" in line and line.isprintable()
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]


def test_what_a_case_lacks_is_its_own_fault(raw, tmp_path) -> None:
    (raw / "imagesTr" / "good_0_0001.nii.gz").unlink()
    add_case(raw, "unlabeled")
    (raw / "labelsTr" / "unlabeled.nii.gz").unlink()
    add_case(raw, "crooked")
    (raw / "imagesTr" / "crooked_0001.nii.gz").write_bytes(packed(VOXELS[1:]))
    summary = prepared(raw, tmp_path / "prepared")
    assert summary.cases == 2
    lines = sorted(summary.faults)
    assert any("good_0" in line and "0001" in line for line in lines)
    assert any("unlabeled" in line and "label" in line for line in lines)
    assert any("crooked_0001.nii.gz" in line and "shape" in line for line in lines)
    assert len(lines) == 3


def test_two_files_of_one_case_stop_everything_before_any_work(raw, run, tmp_path) -> None:
    shutil.copy(raw / "imagesTr" / "good_1_0000.nii.gz", raw / "imagesTr" / "good_1_0000.nii")
    with pytest.raises(DatasetError, match="duplicate case good_1") as caught:
        prepared(raw, tmp_path / "prepared")
    assert caught.value.exit_code == 2 and not (tmp_path / "prepared").exists()
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.nii", "a.nii.gz"):
        (images / name).write_bytes(packed())
    with pytest.raises(DatasetError, match="duplicate case a"):
        predicted(run, images, tmp_path / "out")


def test_names_that_differ_in_case_alone_are_told(raw, run, tmp_path, caplog) -> None:
    add_case(raw, "GOOD_1")
    summary = prepared(raw, tmp_path / "prepared")
    assert summary.cases == 4
    assert any("good_1" in line and "GOOD_1" in line for line in summary.warnings)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("case1", "CASE1"):
        (images / f"{name}.nii.gz").write_bytes(packed())
    assert predicted(run, images, tmp_path / "out").cases == ("CASE1", "case1")
    assert any("case1" in r.getMessage() and "CASE1" in r.getMessage() for r in caplog.records)


def test_files_of_the_system_and_links_in_a_circle_are_passed_over(raw, tmp_path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for name in ("._good_0_0000.nii.gz", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (raw / folder / name).write_bytes(b"\0\5\x16\7")
        (raw / folder / "circle").symlink_to(raw, target_is_directory=True)
    assert prepared(raw, tmp_path / "prepared").cases == 3
    assert len(find_inputs(raw / "imagesTr", ["T1", "T2"])) == 3


def test_nothing_to_do_is_no_success(run, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        predicted(run, tmp_path / "empty", tmp_path / "out")
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(DatasetError, match="no images"):
        prepared(tmp_path / "raw", tmp_path / "prepared")


DOCUMENTS = {
    "broken": ('{"labels": {', "line"),
    "label twice": (
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "a": 2}}',
        "duplicate",
    ),
    "value twice": ('{"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "b": 1}}', "1"),
    "no background": ('{"channel_names": {"0": "T1"}, "labels": {"a": 1}}', "background"),
    "bomb": ("[" * 100_000, "nested"),
    "outward": (
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1},'
        ' "dataset": {"../../../evil": {"images": ["imagesTr/good_0_0000.nii.gz"],'
        ' "label": "labelsTr/good_0.nii.gz"}}}',
        "../../../evil",
    ),
    "absolute": (
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1},'
        ' "dataset": {"/tmp/evil_case": {"images": ["imagesTr/good_0_0000.nii.gz"],'
        ' "label": "labelsTr/good_0.nii.gz"}}}',
        "/tmp/evil_case",
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_manifest_that_cannot_be_right_stops_everything_and_is_named(raw, tmp_path, name) -> None:
    text, word = DOCUMENTS[name]
    (raw / "dataset.json").write_text(text)
    with pytest.raises(DatasetError) as caught:
        prepared(raw, tmp_path / "prepared")
    assert caught.value.exit_code == 2 and word in str(caught.value)
    assert "dataset.json" in str(caught.value)
    assert not (tmp_path / "prepared").exists() and not list(tmp_path.parent.glob("evil*"))


def test_a_manifest_of_a_windows_editor_is_read(raw, tmp_path) -> None:
    text = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert prepared(raw, tmp_path / "prepared").cases == 3
