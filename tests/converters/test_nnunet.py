"""Folders of nnU-Net's versions 1 and 2, built as its documentation describes them."""

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from tests.converters.dataset_folders import document, nnunet, touch


def test_an_nnunet_folder_is_recognized(tmp_path) -> None:
    dataset = convert(nnunet(tmp_path))
    assert dataset.manifest.channels == {"CT": "ct", "PET": "mri"}
    assert [c.path.name for c in dataset.cases[0].channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]


def test_regions_of_nnunet_become_labels_and_regions(tmp_path) -> None:
    nnunet(tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3})
    manifest = convert(tmp_path).manifest
    assert manifest.labels == {"background": 0, "label_1": 1, "label_2": 2, "active": 3}
    assert manifest.regions == {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}


def test_regions_keep_the_order_of_the_file(tmp_path) -> None:
    nnunet(tmp_path, labels={"background": 0, "edema": 1, "whole": [1, 2], "ignore": 3})
    manifest = convert(tmp_path).manifest
    assert list(manifest.regions.items()) == [("edema", (1,)), ("whole", (1, 2))]
    assert manifest.labels == {"background": 0, "edema": 1, "label_2": 2, "ignore": 3}


def test_lists_of_one_value_are_labels(tmp_path) -> None:
    """nnU-Net trains regions only if a list has several values."""
    nnunet(tmp_path, labels={"background": 0, "a": [1], "b": [2]})
    manifest = convert(tmp_path).manifest
    assert (manifest.labels, manifest.regions) == ({"background": 0, "a": 1, "b": 2}, {})


@pytest.mark.parametrize(
    ("lost", "words"),
    [("imagesTr/c1_0001.nii.gz", "c1: channel c1_0001 is missing"), ("labelsTr/c1.nii.gz", "c1: no label")],
)
def test_what_a_case_lacks_is_named(tmp_path, lost, words) -> None:
    (nnunet(tmp_path) / lost).unlink()
    (case,) = convert(tmp_path).cases
    assert words in (case.fault or "")


def test_nnunet_v1_has_modality_and_a_list_of_pairs(tmp_path) -> None:
    pairs = [{"image": "./imagesTr/c1.nii.gz", "label": "./labelsTr/c1.nii.gz"}]
    content = {
        "modality": {"0": "MRI", "1": "CT"},
        "labels": {"0": "background", "1": "x"},
        "training": pairs,
    }
    document(tmp_path, content)
    touch(tmp_path, *[f"imagesTr/c1_000{i}.nii.gz" for i in (0, 1)], "labelsTr/c1.nii.gz")
    dataset = convert(tmp_path)
    assert dataset.manifest.channels == {"MRI": "mri", "CT": "ct"}
    assert [c.path.name for c in dataset.cases[0].channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert dataset.manifest.labels == {"background": 0, "x": 1}


def test_two_label_maps_of_one_case_are_refused(tmp_path) -> None:
    nnunet(tmp_path)
    names = [path.name for path in (tmp_path / "labelsTr").iterdir()]
    touch(tmp_path, f"labelsTr/{names[0].removesuffix('.gz')}")
    with pytest.raises(DatasetError, match="duplicate case"):
        convert(tmp_path)


def test_nnunet_may_list_its_files(tmp_path) -> None:
    listed = {"c1": {"images": ["a/ct.nii.gz", "a/pet.nii.gz"], "label": "a/seg.nii.gz"}}
    nnunet(tmp_path, dataset=listed)
    (case,) = convert(tmp_path).cases
    assert [c.path for c in case.channels] == [tmp_path / "a" / "ct.nii.gz", tmp_path / "a" / "pet.nii.gz"]
    nnunet(tmp_path, dataset={"c1": {"images": ["a.nii.gz"], "label": "../evil.nii.gz"}})
    with pytest.raises(DatasetError, match=r"dataset\.c1\.label: expected a path inside the folder"):
        convert(tmp_path)


def test_voxels_that_nobody_labeled_have_a_label_of_nnunet(tmp_path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    manifest = convert(nnunet(tmp_path, labels=labels)).manifest
    assert manifest.labels == {"background": 0, "label_1": 1, "core": 2, "ignore": 3}
    assert manifest.regions == {"whole": (1, 2), "core": (2,)}
    assert (
        convert(nnunet(tmp_path, labels={"background": 0, "a": 1, "ignore": 2})).manifest.labels["ignore"]
        == 2
    )


@pytest.mark.parametrize("spelled", [{"Ignore": 3}, {"ignore": [3]}, {"IGNORE": "3"}, {"ignore_label": 3}])
def test_ignore_is_understood_in_every_spelling(tmp_path, spelled) -> None:
    manifest = convert(nnunet(tmp_path, labels={"Background": 0, "a": 1, "b": 2, **spelled})).manifest
    assert manifest.labels == {"background": 0, "a": 1, "b": 2, "ignore": 3}
    assert list(manifest.foreground) == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ({"background": 0, "a": 1, "ignore": [2, 3]}, "labels: ignore: expected one value, got 2, 3"),
        ({"background": 0, "a": 1, "ignore": 2, "Ignore": 3}, "expected one label 'ignore', got several"),
        ({"background": 0, "whole": [1, 2], "ignore": 2}, "whole holds the label ignore, 2"),
    ],
)
def test_an_ignore_label_that_cannot_be_is_refused(tmp_path, labels, line) -> None:
    with pytest.raises(DatasetError, match=line):
        convert(nnunet(tmp_path, labels=labels))
