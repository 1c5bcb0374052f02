"""A line about a plausible mistake names what the user gave, and says what to do."""

from __future__ import annotations

from mambamed.io.tables import read_csv
from tests.answers.stubs import write_nifti
from tests.faults.fault_files import LABEL, VOXELS, packed
from tests.faults.in_process import call
from tests.faults.test_bad_cases import raw_dataset


def test_classes_in_a_column_of_labels_lead_to_the_option(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"c{number}.nii.gz").write_bytes(packed(VOXELS + number))
    table = tmp_path / "cases.csv"
    table.write_text("case,label\nc0,AD\nc1,NC\nc2,AD\nc3,NC\n")
    assert read_csv(table)[0] == ["case", "label"]
    asked = ("prepare", table, "-o", tmp_path / "out", "--folds", "2", "--workers", "1", "--no-qc")
    done = call(*asked)
    assert done.code == 2 and done.line_with("cases.csv: label", "'AD'", "--class-column label")
    assert call(*asked, "--class-column", "label").code == 0


def test_labels_that_are_not_scored_lead_to_the_option(tmp_path) -> None:
    for folder in ("masks", "references"):
        write_nifti(tmp_path / folder / "a.nii.gz", LABEL)
    names = '{"labels": {"background": 0, "one": 1}}'
    (tmp_path / "references" / "dataset.json").write_text(names)
    done = call("evaluate", tmp_path / "masks", tmp_path / "references")
    line = done.line_with("references/a.nii.gz", "label 2", "--regions")
    assert done.code == 3 and "manifest" not in line


def test_a_value_of_any_length_is_shown_in_short(tmp_path) -> None:
    long = f"[{','.join(map(str, range(50_000)))}]"
    recipe = tmp_path / "long.yaml"
    recipe.write_text(f"task: segmentation\nnetwork: {{name: nnmamba}}\ntraining: {{epochs: {long}}}\n")
    for asked in (
        ["recipes", "check", recipe],
        ["recipes", "show", "brats_nnmamba", "--set", f"training.lr={long}"],
    ):
        done = call(*asked)
        assert done.code == 2 and all(len(line) < 400 for line in done.lines)
    done = call("predict", tmp_path, "x" * 100_000, "-o", tmp_path / "out")
    assert done.code != 0 and all(len(line) <= 2100 for line in done.lines)


def test_the_folder_or_the_document_inside_a_dataset_leads_to_the_dataset(tmp_path) -> None:
    raw = raw_dataset(tmp_path / "raw")
    for given in (raw / "imagesTr", raw / "dataset.json"):
        done = call("prepare", given, "-o", tmp_path / "out")
        line = done.line_with(str(given), "folder")
        assert done.code == 2 and ("Give that folder" in line or "give the folder" in line)
