"""Images in subfolders, named by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError
from mambamed.io.ledger import LEDGER_NAME
from tests.converters.small_images import write_small


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_small(root / name, seed=number)


def found(root: Path, *channels: str) -> dict[str, list[str]]:
    """Case id -> files of its channels, below the folder."""
    cases = find_inputs(root, channels)
    return {case.id: [str(each.path.relative_to(root)) for each in case.channels] for case in cases}


@pytest.mark.parametrize("channel", ["T1w", "t1", "MRI", "image"])
def test_a_bids_folder_is_read_as_prepare_reads_it(tmp_path, channel) -> None:
    put(tmp_path, "sub-00/anat/T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz")
    put(tmp_path, "derivatives/m/sub-00/anat/sub-00_dseg.nii.gz")
    assert found(tmp_path, channel) == {
        "sub-00": ["sub-00/anat/T1w.nii.gz"],
        "sub-01_ses-2": ["sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"],
    }


def test_bids_suffixes_are_the_channels(tmp_path) -> None:
    put(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
    )
    both, lacking = find_inputs(tmp_path, ["FLAIR", "T1w"])
    assert [each.path.name for each in both.channels] == ["sub-1_FLAIR.nii.gz", "sub-1_T1w.nii.gz"]
    assert lacking.missing == {0: "FLAIR"}
    assert lacking.fault == f"sub-2: FLAIR is missing in {tmp_path / 'sub-2' / 'anat'}. Add it."
    assert set(found(tmp_path, "T1w")) == {"sub-1", "sub-2"}
    with pytest.raises(DatasetError, match="no images to predict: the model reads 2 channels"):
        find_inputs(tmp_path, ["PD", "DWI"])


def test_every_image_of_subfolders_is_a_case_of_one_channel(tmp_path) -> None:
    put(
        tmp_path,
        "a/scan.nii.gz",
        "b/scan.nii.gz",
        "site/p1/p1_day2.nii.gz",
        "a/scan_seg.nii.gz",
        "labels/a.nii.gz",
    )
    assert found(tmp_path, "MRI") == {
        "a_scan": ["a/scan.nii.gz"],
        "b_scan": ["b/scan.nii.gz"],
        "p1_day2": ["site/p1/p1_day2.nii.gz"],
    }


def test_files_named_by_the_channels_are_one_case(tmp_path) -> None:
    put(
        tmp_path,
        "p1/flair.nii.gz",
        "p1/t1.nii.gz",
        "p2/p2_T1.nii.gz",
        "p2/p2_FLAIR.nii.gz",
        "p2/p2_other.nii.gz",
    )
    assert found(tmp_path, "T1", "FLAIR") == {
        "p1": ["p1/t1.nii.gz", "p1/flair.nii.gz"],
        "p2": ["p2/p2_T1.nii.gz", "p2/p2_FLAIR.nii.gz"],
    }
    assert found(tmp_path, "flair") == {"p1": ["p1/flair.nii.gz"], "p2": ["p2/p2_FLAIR.nii.gz"]}


def test_two_images_of_one_channel_are_the_cases_fault(tmp_path) -> None:
    put(tmp_path, "p1/t1.nii.gz", "p1/t1.nrrd.nii.gz", "p2/t1.nii.gz")
    (tmp_path / "p1" / "t1.nii").write_bytes(b"")
    one, two = find_inputs(tmp_path, ["t1"])
    assert one.fault is not None and "several images of one channel (p1/t1.nii, p1/t1.nii.gz)" in one.fault
    assert two.fault is None


def test_masks_that_mambamed_wrote_below_the_images_are_no_images(tmp_path) -> None:
    put(tmp_path, "p1/scan.nii.gz", "out/p1_scan.nii.gz")
    (tmp_path / "out" / LEDGER_NAME).write_text(
        '{"format": 1, "kind": "folder of masks"}\n"p1_scan.nii.gz"\n'
    )
    assert set(found(tmp_path, "MRI")) == {"p1_scan"}


def test_a_refusal_says_what_was_looked_for_and_found(tmp_path) -> None:
    put(tmp_path, "p1/a.nii.gz", "p1/b.nii.gz")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DatasetError) as error:
        find_inputs(tmp_path, ["T1", "T2"])
    line = str(error.value)
    assert "the model reads 2 channels (T1, T2); looked for CASE.nii.gz, CASE_0000.nii.gz, BraTS" in line
    assert (
        "BIDS (sub-*/anat)" in line
        and "found 2 images p1/a.nii.gz and p1/b.nii.gz, 1 .txt."
        in line.replace("p1/a.nii.gz, p1/b.nii.gz", "p1/a.nii.gz and p1/b.nii.gz")
    )


def test_two_files_of_one_case_are_both_named_and_none_is_given_up(tmp_path) -> None:
    put(tmp_path, "a/b.nii.gz", "a_b/a_b.nii.gz")
    with pytest.raises(
        DatasetError, match=r"duplicate case a_b: .*a/b\.nii\.gz, .*a_b/a_b\.nii\.gz\. If they"
    ):
        find_inputs(tmp_path, ["MRI"])


def test_a_raw_dataset_is_not_taken_for_nested_images(tmp_path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DatasetError, match="no images to predict"):
        find_inputs(tmp_path, ["MRI"])
