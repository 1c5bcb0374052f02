"""Folders of the BraTS challenges of 2019 to 2024, built as the challenges describe them."""

import pytest

from mambamed.converters import convert
from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from tests.converters.dataset_folders import brats, touch


def test_brats_2023_is_recognized(tmp_path) -> None:
    for visit in ("000", "001"):
        brats(tmp_path, f"BraTS-GLI-00005-{visit}", "t1n t1c t2w t2f seg", "-")
    dataset = convert(tmp_path)
    assert list(dataset.manifest.channels) == ["t1n", "t1c", "t2w", "t2f"]
    assert dataset.manifest.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert {case.subject for case in dataset.cases} == {"BraTS-GLI-00005"}


def test_brats_2021_keeps_its_label_4(tmp_path) -> None:
    brats(tmp_path, "BraTS2021_00000", "t1 t1ce t2 flair seg", "_")
    dataset = convert(tmp_path)
    assert dataset.manifest.regions == {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    names = [channel.path.name for channel in dataset.cases[0].channels]
    assert names == [f"BraTS2021_00000_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")]


def test_the_cavity_of_treated_tumors_is_a_label_of_2024(tmp_path) -> None:
    brats(tmp_path, "BraTS-GLI-02064-100", "t1n t1c t2w t2f seg", "-")
    manifest = convert(tmp_path).manifest
    assert manifest.labels == {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "RC": 4}
    assert manifest.regions["RC"] == (4,)


@pytest.mark.parametrize("population", ["MEN", "MET", "PED", "SSA"])
def test_other_populations_of_2023_have_the_same_names(tmp_path, population) -> None:
    brats(tmp_path, f"BraTS-{population}-00001-000", "t1n t1c t2w t2f seg", "-")
    dataset = convert(tmp_path)
    assert dataset.manifest.labels == {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    assert dataset.cases[0].subject == f"BraTS-{population}-00001"


def test_children_of_2024_have_labels_of_their_own(tmp_path) -> None:
    folder = brats(tmp_path / "BraTS-PEDs2024_Training", "BraTS-PED-00001-000", "t1n t1c t2w t2f seg", "-")
    own = {"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}
    assert convert(folder).manifest.labels == own
    assert convert(folder.rename(tmp_path / "other"), "brats-ped2024").manifest.labels == own


def test_a_plan_of_radiotherapy_has_one_channel_and_its_target(tmp_path) -> None:
    """As the folder of 2024 has it: BraTS-MEN-RT-0003-1_t1c.nii.gz and _gtv.nii.gz."""
    for plan in ("0003-1", "0003-2", "0011-1"):
        brats(tmp_path, f"BraTS-MEN-RT-{plan}", "t1c gtv", "_")
    for format in ("auto", "brats", "brats-men-rt"):
        dataset = convert(tmp_path, format)
        assert dataset.manifest.channels == {"t1c": "mri"}
        assert (dataset.manifest.labels, dataset.manifest.regions) == ({"background": 0, "GTV": 1}, {})
        assert [case.subject for case in dataset.cases] == ["BraTS-MEN-RT-0003"] * 2 + ["BraTS-MEN-RT-0011"]
        assert [case.fault for case in dataset.cases] == [None] * 3
    (tmp_path / "BraTS-MEN-RT-0011-1" / "BraTS-MEN-RT-0011-1_gtv.nii.gz").unlink()
    assert "gtv is missing" in (convert(tmp_path).cases[2].fault or "")
    cases = find_inputs(tmp_path, ["t1c"])
    assert [(case.id, len(case.channels), case.fault) for case in cases] == [
        (f"BraTS-MEN-RT-{plan}", 1, None) for plan in ("0003-1", "0003-2", "0011-1")
    ]


def test_grades_of_2019_lie_in_folders(tmp_path) -> None:
    brats(tmp_path / "HGG", "BraTS19_CBICA_AAB_1", "t1 t1ce t2 flair seg", "_")
    brats(tmp_path / "LGG", "BraTS19_TCIA09_141_1", "t1 t1ce t2 flair seg", "_")
    first, second = convert(tmp_path).cases
    assert (first.id, first.subject) == ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB")
    assert second.fault is None


def test_the_one_misnamed_segmentation_of_2020_is_found(tmp_path) -> None:
    brats(tmp_path, "BraTS20_Training_355", "t1 t1ce t2 flair", "_")
    touch(tmp_path, "BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    (case,) = convert(tmp_path).cases
    assert case.label is not None and case.label.name == "W39_1998.09.19_Segm.nii"


def test_years_of_brats_are_not_mixed(tmp_path) -> None:
    brats(tmp_path, "BraTS2021_00000", "t1 t1ce t2 flair seg", "_")
    brats(tmp_path, "BraTS-GLI-00005-000", "t1n t1c t2w t2f seg", "-")
    with pytest.raises(DatasetError, match="BraTS 2021 and 2023, whose labels differ"):
        convert(tmp_path)


def test_a_modality_that_is_missing_is_named(tmp_path) -> None:
    brats(tmp_path, "a", "t1n t1c t2w t2f seg", "-")
    brats(tmp_path, "b", "t1n t1c t2w seg", "-")
    with pytest.raises(DatasetError, match="no images in a known layout"):
        convert(tmp_path)  # without a BraTS id, nothing says what the labels mean
    whole, lacking = convert(tmp_path, "brats").cases
    assert whole.fault is None
    assert (lacking.fault or "").startswith("b: t2f is missing")
