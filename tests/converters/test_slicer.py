"""Folders that 3D Slicer saved: side by side, in two folders, or one folder per case."""

import pytest

from mambamed.converters import convert
from tests.converters.small_images import write_small
from tests.converters.test_segmented import references, segmentation


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("p{}.nii.gz", "p{}.seg.nrrd"),
        ("images/p{}.nii.gz", "labels/p{}.seg.nrrd"),
        ("imagesTr/p{}_0000.nii.gz", "labelsTr/p{}.seg.nrrd"),
        ("p{}/Volume.nii.gz", "p{}/Segmentation.seg.nrrd"),
    ],
)
def test_images_and_segmentations_need_no_description(tmp_path, image, label) -> None:
    root = tmp_path / "in"
    for number in (1, 2):
        write_small(root / image.format(number), seed=number)
        names = {"liver": (0, number), "tumor": (0, 3 - number)}
        segmentation(root / label.format(number), names)
    dataset = convert(root)
    assert [case.id for case in dataset.cases] == ["p1", "p2"]
    assert dataset.manifest.labels == {"background": 0, "liver": 1, "tumor": 2}
    for found in references(dataset, tmp_path / "out"):
        assert found[1:4, 1, 1].tolist() == [1, 2, 0]


def test_what_has_no_partner_is_a_fault_of_a_case(tmp_path) -> None:
    for name in "ab":
        write_small(tmp_path / f"{name}.nii.gz")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 1)})
    segmentation(tmp_path / "c.seg.nrrd", {"liver": (0, 1)})
    faults = {case.id: (case.label is None, case.fault) for case in convert(tmp_path).cases}
    assert faults["a"] == (False, None) and faults["b"] == (True, None)
    assert "no image for the label" in faults["c"][1]


def test_a_folder_of_several_images_is_a_fault(tmp_path) -> None:
    write_small(tmp_path / "in" / "p1" / "a.nii.gz")
    write_small(tmp_path / "in" / "p1" / "b.nii.gz")
    segmentation(tmp_path / "in" / "p1" / "s.seg.nrrd", {"liver": (0, 1)})
    (case,) = convert(tmp_path / "in").cases
    assert case.fault is not None and "2 images and 1 segmentations, expected one of each" in case.fault
