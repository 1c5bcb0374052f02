"""A small dataset as the BIDS specification describes it, with ADNI's diagnoses."""

from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from mambamed.io.ledger import Ledger
from tests.converters.small_images import write_small


@pytest.fixture
def adni(tmp_path) -> Path:
    rows = [("sub-01", "NC", "71"), ("sub-02", "AD", "80"), ("sub-03", "sMCI", "75"), ("sub-04", "n/a", "60")]
    for number, (subject, _, _) in enumerate(rows):
        write_small(tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz", seed=number)
        (tmp_path / subject / "anat" / f"{subject}_T1w.json").write_text("{}")
    lines = ["participant_id\tdiagnosis\tage", *("\t".join(row) for row in rows)]
    (tmp_path / "participants.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_diagnoses_of_participants_become_classes(adni) -> None:
    dataset = convert(adni)
    assert [(case.id, case.class_name) for case in dataset.cases] == [
        ("sub-01", "NC"),
        ("sub-02", "AD"),
        ("sub-03", "sMCI"),
    ]
    assert dataset.manifest.classes == ("AD", "NC", "sMCI")
    assert dataset.manifest.channels == {"T1w": "mri"}
    assert dataset.cases[1].covariates == {"age": "80"}


def test_another_column_may_hold_the_class(adni) -> None:
    assert convert(adni, class_column="age").manifest.classes == ("60", "71", "75", "80")
    with pytest.raises(DatasetError, match=r"--class-column: .*diagnosis, age.*got 'sex'"):
        convert(adni, class_column="sex")


def test_sessions_of_a_subject_have_diagnoses_of_their_own(adni) -> None:
    for session in ("m00", "m24"):
        write_small(adni / "sub-05" / f"ses-{session}" / "anat" / f"sub-05_ses-{session}_T1w.nii.gz")
    (adni / "sub-05" / "sub-05_sessions.tsv").write_text(
        "session_id\tdiagnosis\nses-m00\tpMCI\nses-m24\tAD\n"
    )
    first, second = convert(adni).cases[3:]
    assert (first.id, first.subject, first.class_name) == ("sub-05_ses-m00", "sub-05", "pMCI")
    assert (second.id, second.class_name) == ("sub-05_ses-m24", "AD")


def test_channels_are_what_the_recipe_names(adni) -> None:
    write_small(adni / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    dataset = convert(adni, channels={"T1w": "mri", "FLAIR": "mri"})
    assert len(dataset.cases[0].channels) == 2
    assert (dataset.cases[1].fault or "").startswith("sub-02: FLAIR is missing")
    write_small(adni / "sub-01" / "anat" / "sub-01_run-2_T1w.nii.gz")
    assert "2 images of T1w" in (convert(adni).cases[0].fault or "")


def test_label_maps_lie_in_derivatives(adni) -> None:
    for subject in ("sub-01", "sub-02"):
        write_small(adni / "derivatives" / "seg" / subject / "anat" / f"{subject}_space-T1w_dseg.nii.gz", 3)
    dataset = convert(adni)
    assert dataset.manifest.labels == {"background": 0, "label_3": 3}
    assert dataset.manifest.classes == ()
    assert dataset.cases[0].label is not None


def test_predictions_of_mambamed_are_no_label_maps(adni) -> None:
    write_small(adni / "derivatives" / "seg" / "sub-01" / "anat" / "sub-01_dseg.nii.gz", 3)
    assert convert(adni).manifest.labels
    Ledger(adni / "derivatives" / "seg").begin("folder of BIDS derivatives", "", ())
    assert not convert(adni).manifest.labels


def test_a_participant_twice_is_told(adni) -> None:
    with (adni / "participants.tsv").open("a") as file:
        file.write("sub-01\tAD\t71\n")
    with pytest.raises(DatasetError, match="duplicate case sub-01"):
        convert(adni)


def test_participants_may_have_one_row_per_visit(adni) -> None:
    rows = []
    for session, diagnosis in (("ses-m00", "pMCI"), ("ses-m24", "AD")):
        write_small(adni / "sub-05" / session / "anat" / f"sub-05_{session}_T1w.nii.gz")
        rows.append(f"sub-05\t{session}\t{diagnosis}")
    (adni / "participants.tsv").write_text("participant_id\tsession_id\tdiagnosis\n" + "\n".join(rows))
    visits = [case for case in convert(adni).cases if case.subject == "sub-05"]
    assert [(case.id, case.class_name) for case in visits] == [
        ("sub-05_ses-m00", "pMCI"),
        ("sub-05_ses-m24", "AD"),
    ]


def test_tables_of_derivatives_name_the_labels_and_must_agree(adni) -> None:
    """The columns are those of BIDS 1.10, "Common image-derived labels"."""
    root = adni / "derivatives" / "seg"
    for subject in ("sub-01", "sub-02"):
        write_small(root / subject / "anat" / f"{subject}_space-T1w_dseg.nii.gz", 3)
    (root / "dseg.tsv").write_text("index\tname\tabbreviation\n3\tHippocampus\tHC\n4\tAmygdala\tAM\n")
    manifest = convert(adni).manifest
    assert manifest.labels == {"background": 0, "Hippocampus": 3, "Amygdala": 4}
    assert convert(adni, labels={"background": 0, "Thalamus": 3}).manifest.labels == manifest.labels
    (root / "sub-02" / "anat" / "sub-02_dseg.tsv").write_text("index\tname\n3\thippocampus\n5\tPons\n")
    assert convert(adni).manifest.labels == {**manifest.labels, "Pons": 5}
    (root / "sub-02" / "anat" / "sub-02_dseg.tsv").write_text("index\tname\n4\tHippocampus\n")
    with pytest.raises(DatasetError, match=r"Hippocampus 3, Amygdala 4 \(.*\| Hippocampus 4 \("):
        convert(adni)


def test_several_label_maps_of_a_case_are_its_fault(adni) -> None:
    for tool in ("fast", "first"):
        write_small(adni / "derivatives" / tool / "sub-01" / "anat" / "sub-01_dseg.nii.gz", 3)
    first = convert(adni).cases[0]
    assert (first.fault or "").startswith("sub-01: 2 label maps (") and "first" in (first.fault or "")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("3\tHippocampus\n4\tHippocampus\n", "Hippocampus has the values 3 and 4"),
        (f"{'9' * 5000}\tPons\n", "index: expected a whole number, got 999"),
    ],
)
def test_a_table_of_labels_that_cannot_be_right_is_one_line(adni, rows, line) -> None:
    write_small(adni / "derivatives" / "seg" / "sub-01" / "anat" / "sub-01_dseg.nii.gz", 3)
    (adni / "derivatives" / "seg" / "dseg.tsv").write_text(f"index\tname\n{rows}")
    with pytest.raises(DatasetError, match=line):
        convert(adni)


def test_persons_without_image_or_class_are_named(tmp_path) -> None:
    for number in range(1, 4):
        write_small(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz", seed=number)
    rows = "sub-1\tA\nsub-2\tn/a\nsub-3\tB\nsub-4\tB\n"
    (tmp_path / "participants.tsv").write_text(f"participant_id\tgroup\n{rows}")
    dataset = convert(tmp_path)
    assert [case.id for case in dataset.cases] == ["sub-1", "sub-3"]
    assert dataset.warnings == (
        f"{tmp_path}/participants.tsv: no image of T1w: sub-4",
        f"{tmp_path}: group is not known, so left out: sub-2",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\tGroup\nsub-1\tA\tB\n")
    with pytest.raises(DatasetError, match="columns group and Group differ only in capitals"):
        convert(tmp_path)
