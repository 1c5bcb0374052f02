"""Folders of the ACDC challenge."""

from mambamed.converters import convert
from tests.converters.dataset_folders import acdc


def test_acdc_has_two_phases_a_patient(tmp_path) -> None:
    for patient, group, es in (("patient001", "DCM", 12), ("patient002", "NOR", 9)):
        acdc(tmp_path / "training", patient, group, es)
    acdc(tmp_path / "testing", "patient101", "HCM", 14)
    dataset = convert(tmp_path)
    assert [case.id for case in dataset.cases] == [
        "patient001_frame01", "patient001_frame12", "patient002_frame01", "patient002_frame09"
    ]  # fmt: skip
    second = dataset.cases[1]
    assert second.label == tmp_path / "training" / "patient001" / "patient001_frame12_gt.nii.gz"
    assert (second.subject, second.class_name) == ("patient001", "DCM")
    assert second.covariates == {"phase": "ES", "height": "184.0", "weight": "95.0"}
    assert dataset.manifest.labels == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}
    assert dataset.manifest.classes == ("DCM", "NOR")
    assert not any(case.fault for case in dataset.cases)
    assert [case.id for case in convert(tmp_path / "testing").cases] == [
        "patient101_frame01", "patient101_frame14"
    ]  # fmt: skip


def test_what_a_patient_of_acdc_lacks_is_named(tmp_path) -> None:
    acdc(tmp_path, "patient001", "DCM", 12)
    (tmp_path / "patient001" / "patient001_frame12_gt.nii.gz").unlink()
    (tmp_path / "patient001" / "Info.cfg").write_text("ES: 12\n")
    lost, frame = convert(tmp_path).cases
    assert "Info.cfg: ED: missing. Correct the file." in (lost.fault or "")
    assert "patient001_frame12_gt is missing" in (frame.fault or "")
