"""Folders of the AMOS challenge."""

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from tests.converters.dataset_folders import msd, touch


def test_amos_keeps_ct_and_mri_apart(tmp_path) -> None:
    cases = ("amos_0004", "amos_0499", "amos_0500")
    touch(tmp_path, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])
    with pytest.raises(DatasetError, match="--format amos-ct or amos-mr"):
        convert(tmp_path)
    ct = convert(tmp_path, "amos-ct")
    assert [case.id for case in ct.cases] == ["amos_0004", "amos_0499"]
    assert ct.manifest.channels == {"CT": "ct"}
    assert ct.manifest.labels["arota"] == 8 and len(ct.manifest.labels) == 16
    mr = convert(tmp_path, channels={"MRI": "mri"})
    assert [case.id for case in mr.cases] == ["amos_0500"]
    assert mr.manifest.channels == {"MRI": "mri"}


def test_amos_takes_its_labels_from_its_document_and_its_cases_from_its_folders(tmp_path) -> None:
    """The challenge's document, which lists pairs as a Decathlon task does; 0507 was moved there later."""
    msd(tmp_path, ("amos_0001", "amos_0600"), modality={"0": "CT"}, labels={"0": "background", "1": "spleen"})
    touch(tmp_path, "imagesTr/amos_0507.nii.gz", "labelsTr/amos_0507.nii.gz")
    dataset = convert(tmp_path, "amos-mr")
    assert [case.id for case in dataset.cases] == ["amos_0507", "amos_0600"]
    assert dataset.manifest.labels == {"background": 0, "spleen": 1}
    (tmp_path / "labelsTr" / "amos_0600.nii.gz").unlink()
    assert "amos_0600: no label" in (convert(tmp_path, "amos-mr").cases[1].fault or "")
