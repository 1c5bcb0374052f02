"""Folders of the Medical Segmentation Decathlon, built as its documentation describes them."""

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from tests.converters.dataset_folders import msd


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
    with pytest.raises(DatasetError, match=r"dataset\.json: training\.0\.image: .*inside the folder.*evil"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"labels": {"0": "background", "1": "x", "2": "x"}},
            "labels: expected each name once, got 'x'",
        ),
        ({"labels": {"1": "x"}}, "background"),
        (
            {"modality": {"0": "T1", "1": "T1"}},
            "modality: expected a different name .* got 'T1' twice",
        ),
        ({"labels": []}, r"labels: expected an object, got \[\]"),
    ],
)
def test_a_document_that_cannot_be_right_is_refused(tmp_path, changes, words) -> None:
    with pytest.raises(DatasetError, match=words):
        convert(msd(tmp_path, **changes))
