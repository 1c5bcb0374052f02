"""Segmentations of 3D Slicer as labels of a dataset: one name, one meaning, in every case and layout."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from mambamed.preparation.prepare import prepare
from tests.converters.small_images import LPS, write_small
from tests.io.test_seg_nrrd import write_slicer

IN_LPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ LPS


def segmentation(path, segments, layers=None, start=(1, 1, 1)) -> None:
    """Each segment of a single layer has a voxel of its own, along x; 6 x 5 x 4 voxels are the image."""
    if layers is None:
        layers = [np.zeros((4, 1, 1), np.uint8)]
        for place, (_, value) in enumerate(segments.values()):
            layers[0][place] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_slicer(path, layers, segments, start, IN_LPS)


def listed(folder, *labels) -> None:
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "image", "label"])
        for number, label in enumerate(labels):
            write_small(folder / "images" / f"c{number}.nii.gz", seed=number)
            writer.writerow([f"c{number}", f"images/c{number}.nii.gz", label])


def references(dataset, output, **options) -> list[np.ndarray]:
    prepare(dataset, output, qc=False, workers=1, **options)
    return [np.asanyarray(nib.load(p).dataobj) for p in sorted((output / "references").glob("*.nii.gz"))]


def test_values_that_differ_are_mapped_by_name(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd", "b.seg.nrrd")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 1), "tumor": (0, 2)})
    segmentation(tmp_path / "b.seg.nrrd", {"tumor": (0, 1), "liver": (0, 2)})
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.labels == {"background": 0, "liver": 1, "tumor": 2}
    one, two = references(dataset, tmp_path / "out")
    assert one[1:4, 1, 1].tolist() == [1, 2, 0] and two[1:4, 1, 1].tolist() == [2, 1, 0]
    assert np.count_nonzero(one) == np.count_nonzero(two) == 2


def test_nnunet_names_win_over_the_values_in_the_file(tmp_path) -> None:
    labels = {"background": 0, "tumor": 1, "liver": 2}
    document = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nrrd", "numTraining": 2}
    root = tmp_path / "Dataset001_X"
    for number in range(2):
        write_small(root / "imagesTr" / f"c{number}_0000.nii.gz", seed=number)
    (root / "dataset.json").write_text(json.dumps(document))
    segmentation(root / "labelsTr" / "c0.seg.nrrd", {"liver": (0, 1), "tumor": (0, 2)})
    write_small(root / "labelsTr" / "c1.nii.gz", value=2)
    one, two = references(convert(root), tmp_path / "out")
    assert one[1:4, 1, 1].tolist() == [2, 1, 0] and sorted(np.unique(two)) == [0, 2]


def test_a_decathlon_may_list_them(tmp_path) -> None:
    root = tmp_path / "Task01_X"
    document = {
        "name": "X", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "tumor"},
        "training": [
            {"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.seg.nrrd"} for n in range(2)
        ],
    }  # fmt: skip
    for number in range(2):
        write_small(root / "imagesTr" / f"c{number}.nii.gz", seed=number)
        segmentation(root / "labelsTr" / f"c{number}.seg.nrrd", {"tumor": (0, 3 + number)})
    (root / "dataset.json").write_text(json.dumps(document))
    for found in references(convert(root), tmp_path / "out"):
        assert found[1, 1, 1] == 1 and found.sum() == 1


def test_layers_that_contain_each_other_become_regions(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd", "b.seg.nrrd")
    whole, core = np.zeros((4, 3, 2), np.uint8), np.zeros((4, 3, 2), np.uint8)
    whole[1:4], core[2] = 1, 1
    for name in "ab":
        segmentation(tmp_path / f"{name}.seg.nrrd", {"CTV": (0, 1), "GTV": (1, 1)}, [whole, core])
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.labels == {"background": 0, "CTV alone": 1, "GTV": 2}
    assert dataset.manifest.regions == {"CTV": (1, 2), "GTV": (2,)}
    for found in references(dataset, tmp_path / "out"):
        np.testing.assert_array_equal(found[1:5, 1:4, 1:3], whole + core)


def test_layers_that_share_a_part_are_refused(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd")
    one, two = np.zeros((4, 1, 1), np.uint8), np.zeros((4, 1, 1), np.uint8)
    one[:3], two[1:] = 1, 1
    segmentation(tmp_path / "a.seg.nrrd", {"PTV": (0, 1), "lung": (1, 1)}, [one, two])
    with pytest.raises(DatasetError, match=r"a\.seg\.nrrd: layers overlap: 2 voxels are in PTV and lung"):
        convert(tmp_path / "cases.csv")


def test_regions_that_share_a_label_hold_layers_that_share_a_part(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd")
    one, two = np.zeros((4, 1, 1), np.uint8), np.zeros((4, 1, 1), np.uint8)
    one[:3], two[2:] = 1, 1
    segmentation(tmp_path / "a.seg.nrrd", {"heart": (0, 1), "lung": (1, 1)}, [one, two])
    (tmp_path / "cases.json").write_text(json.dumps({"labels": {"heart": [1, 3], "lung": [2, 3]}}))
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.regions == {"heart": (1, 3), "lung": (2, 3)} and dataset.warnings == ()
    (found,) = references(dataset, tmp_path / "out")
    assert found[1:5, 1, 1].tolist() == [1, 1, 3, 2]


def test_spelling_does_not_matter_but_in_one_file(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd", "b.seg.nrrd")
    segmentation(tmp_path / "a.seg.nrrd", {"left kidney": (0, 1), "liver": (0, 2)})
    segmentation(tmp_path / "b.seg.nrrd", {"Liver": (0, 1), "Left_Kidney": (0, 2)})
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.labels == {"background": 0, "left kidney": 1, "liver": 2}
    one, two = references(dataset, tmp_path / "out")
    assert one[1:3, 1, 1].tolist() == [1, 2] and two[1:3, 1, 1].tolist() == [2, 1]
    segmentation(tmp_path / "b.seg.nrrd", {"Liver": (0, 1), "liver": (0, 2)})
    with pytest.raises(DatasetError, match=r"b\.seg\.nrrd: segments Liver and liver differ only in spelling"):
        convert(tmp_path / "cases.csv")


def test_a_structure_that_a_case_lacks_is_told_once(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd", "b.seg.nrrd", "c.seg.nrrd")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 1), "spleen": (0, 2)})
    segmentation(tmp_path / "b.seg.nrrd", {"liver": (0, 1)})
    segmentation(tmp_path / "c.seg.nrrd", {"liver": (0, 1)})
    dataset = convert(tmp_path / "cases.csv")
    (warning,) = dataset.warnings
    assert "structures that some cases lack: spleen in c1, c2. They count as absent there" in warning
    assert warning in prepare(dataset, tmp_path / "out", qc=False, workers=1).warnings


def test_values_without_names_stand_next_to_names_that_agree(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd", "b.nii.gz")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 4)})
    write_small(tmp_path / "b.nii.gz", value=4)
    assert convert(tmp_path / "cases.csv").manifest.labels == {"background": 0, "liver": 4}
    listed(tmp_path, "a.seg.nrrd", "b.nii.gz", "c.seg.nrrd")
    segmentation(tmp_path / "c.seg.nrrd", {"liver": (0, 1)})
    with pytest.raises(DatasetError, match=r"liver 4 \(.*a\.seg\.nrrd\) \| liver 1 \(.*c\.seg\.nrrd\)"):
        convert(tmp_path / "cases.csv")


def test_a_change_of_names_prepares_a_case_again(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 1), "tumor": (0, 2)})
    for first, second in (("liver", "tumor"), ("tumor", "liver")):
        document = {"labels": {"background": 0, first: 1, second: 2}}
        (tmp_path / "cases.json").write_text(json.dumps(document))
        (found,) = references(convert(tmp_path / "cases.csv"), tmp_path / "out")
        assert found[1:3, 1, 1].tolist() == ([1, 2] if first == "liver" else [2, 1])


def test_two_segments_of_one_given_label_are_refused(tmp_path) -> None:
    listed(tmp_path, "a.seg.nrrd")
    segmentation(tmp_path / "a.seg.nrrd", {"liver": (0, 1), "Liver": (0, 2)})
    (tmp_path / "cases.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    with pytest.raises(DatasetError, match=r"a\.seg\.nrrd: segments liver and Liver differ only in spelling"):
        prepare(convert(tmp_path / "cases.csv"), tmp_path / "out", qc=False, workers=1)
