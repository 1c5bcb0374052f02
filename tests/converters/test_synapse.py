"""Folders of the Synapse multi-organ challenge (BTCV)."""

from mambamed.converters import convert
from tests.converters.dataset_folders import touch


def test_synapse_pairs_images_and_labels_by_number(tmp_path) -> None:
    training, testing = tmp_path / "RawData" / "Training", tmp_path / "RawData" / "Testing"
    touch(training, "img/img0001.nii.gz", "label/label0001.nii.gz", "img/img0002.nii.gz")
    touch(testing, "img/img0061.nii.gz")
    first, second = convert(tmp_path).cases
    assert (first.id, first.label) == ("img0001", training / "label" / "label0001.nii.gz")
    assert "img0002: no label" in (second.fault or "")


def test_synapse_may_lie_in_averaged_folders(tmp_path) -> None:
    touch(tmp_path, "averaged-training-images/img0001_avg.nii.gz")
    touch(tmp_path, "averaged-training-labels/label0001_avg.nii.gz")
    organs = convert(tmp_path).manifest.labels
    assert list(organs.values()) == list(range(14))
