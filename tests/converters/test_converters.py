"""Folders are built as the challenges' and nnU-Net's documentation describe them; files may be empty here,
for a converter reads no voxel."""

import json
from pathlib import Path

import pytest

from mambamed.converters import convert, find_inputs
from mambamed.errors import DatasetError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def document(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def msd(folder: Path, cases=("b", "a"), **changes) -> Path:
    pairs = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    content = {"name": "Task", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}}
    document(folder, content | {"training": pairs} | changes)
    return touch(folder, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])


def nnunet(folder: Path, **changes) -> Path:
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1}}
    document(folder, content | changes)
    return touch(folder, *[f"imagesTr/c1_000{i}.nii.gz" for i in (0, 1)], "labelsTr/c1.nii.gz")


def test_a_decathlon_task_is_recognized(tmp_path) -> None:
    dataset = convert(msd(tmp_path))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.manifest.labels == {"background": 0, "Anterior": 1}
    assert dataset.cases[0].channels[0].volume is None
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a.nii.gz"


def test_decathlon_channels_lie_in_the_fourth_axis(tmp_path) -> None:
    dataset = convert(msd(tmp_path, modality={"0": "FLAIR", "1": "T1w", "2": "CT"}))
    assert dataset.manifest.channels == {"FLAIR": "mri", "T1w": "mri", "CT": "ct"}
    assert [channel.volume for channel in dataset.cases[0].channels] == [0, 1, 2]
    assert len({channel.path for channel in dataset.cases[0].channels}) == 1


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/tmp/evil.nii.gz"])
def test_a_path_in_a_document_cannot_leave_the_folder(tmp_path, name) -> None:
    msd(tmp_path, training=[{"image": name, "label": name}])
    with pytest.raises(DatasetError, match=r"dataset\.json: path .*evil.* leaves the folder"):
        convert(tmp_path)


def test_an_nnunet_folder_is_recognized(tmp_path) -> None:
    dataset = convert(nnunet(tmp_path))
    assert dataset.manifest.channels == {"CT": "ct", "PET": "mri"}
    assert [c.path.name for c in dataset.cases[0].channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]


def test_regions_of_nnunet_become_labels_and_regions(tmp_path) -> None:
    nnunet(tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3})
    manifest = convert(tmp_path).manifest
    assert manifest.labels == {"background": 0, "label_1": 1, "label_2": 2, "active": 3}
    assert manifest.regions == {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}


@pytest.mark.parametrize(
    ("lost", "words"),
    [("imagesTr/c1_0001.nii.gz", "c1: c1_0001 is missing"), ("labelsTr/c1.nii.gz", "c1: no label")],
)
def test_what_a_case_lacks_is_named(tmp_path, lost, words) -> None:
    (nnunet(tmp_path) / lost).unlink()
    with pytest.raises(DatasetError, match=words):
        convert(tmp_path)


def brats(folder: Path, case: str, names: str, separator: str) -> Path:
    return touch(folder, *[f"{case}/{case}{separator}{name}.nii.gz" for name in names.split()])


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


def test_years_of_brats_are_not_mixed(tmp_path) -> None:
    brats(tmp_path, "BraTS2021_00000", "t1 t1ce t2 flair seg", "_")
    brats(tmp_path, "BraTS-GLI-00005-000", "t1n t1c t2w t2f seg", "-")
    with pytest.raises(DatasetError, match="mixes"):
        convert(tmp_path)


def test_a_modality_that_is_missing_is_named(tmp_path) -> None:
    brats(tmp_path, "a", "t1n t1c t2w t2f seg", "-")
    brats(tmp_path, "b", "t1n t1c t2w seg", "-")
    with pytest.raises(DatasetError, match="b: t2f is missing"):
        convert(tmp_path)


def test_a_folder_without_images_is_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        convert(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        convert(tmp_path / "absent")
    with pytest.raises(DatasetError, match="choose auto or one of"):
        convert(tmp_path, "dicomish")


def test_inputs_are_one_file_a_case(tmp_path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nii", "._a.nii", "Thumbs.db", "notes.txt")
    cases = find_inputs(tmp_path, ["MRI"])
    assert [(case.id, case.channels[0].path.name) for case in cases] == [("a", "a.nii"), ("b", "b.nii.gz")]
    (single,) = find_inputs(tmp_path / "b.nii.gz", ["T1", "T2"])
    assert [channel.volume for channel in single.channels] == [0, 1]


def test_inputs_with_numbered_channels(tmp_path) -> None:
    touch(tmp_path, "imagesTs/c1_0000.nii.gz", "imagesTs/c1_0001.nii.gz")
    (case,) = find_inputs(tmp_path, ["CT", "PET"])
    assert [channel.path.name for channel in case.channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    with pytest.raises(DatasetError, match=r"c1: channel 0002 \(SPECT\) is missing"):
        find_inputs(tmp_path, ["CT", "PET", "SPECT"])
    with pytest.raises(DatasetError, match=r"c1_0001.nii.gz: the model reads no such channel"):
        find_inputs(tmp_path, ["CT"])


def test_inputs_with_brats_names(tmp_path) -> None:
    brats(tmp_path, "P-1", "t1n t1c t2w t2f", "-")
    (case,) = find_inputs(tmp_path, ["t1n", "t1c", "t2w", "t2f"])
    assert case.id == "P-1"
    assert case.label is None


def test_inputs_that_are_nothing_are_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no images to predict"):
        find_inputs(tmp_path, ["MRI"])
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(DatasetError, match="duplicate case a"):
        find_inputs(tmp_path, ["MRI"])
    with pytest.raises(DatasetError, match="is not an image"):
        find_inputs(touch(tmp_path, "x.txt") / "x.txt", ["MRI"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"0": "background", "1": "x", "2": "x"}}, "stands twice"),
        ({"labels": {"1": "x"}}, "background"),
        ({"modality": {"0": "T1", "1": "T1"}}, "same name"),
        ({"labels": []}, "has no labels"),
    ],
)
def test_a_document_that_cannot_be_right_is_refused(tmp_path, changes, words) -> None:
    with pytest.raises(DatasetError, match=words):
        convert(msd(tmp_path, **changes))
