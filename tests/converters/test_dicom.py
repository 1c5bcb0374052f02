"""The real series of the test data: found, of one channel, and nothing to learn from."""

import shutil

import pytest

from mambamed.converters import convert
from mambamed.converters.dicom import series_cases
from mambamed.converters.inputs import find_inputs
from mambamed.errors import CaseError, DatasetError
from mambamed.io.images import read_image
from tests.real_data import DATA

REAL = DATA / "dicom"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")


def test_a_folder_of_dicom_has_nothing_to_learn_from() -> None:
    with pytest.raises(DatasetError, match="1 case, but no label, landmark or class to learn from"):
        convert(REAL)
    ((case, modality),) = series_cases(REAL)
    assert (case.id, modality) == ("hippocampus_crop", "MR")
    ((case, _),) = series_cases(REAL / "hippocampus_crop")
    assert case.id == "hippocampus_crop"


def test_a_list_names_what_a_folder_of_dicom_is(tmp_path) -> None:
    shutil.copytree(REAL / "hippocampus_crop", tmp_path / "a")
    shutil.copytree(REAL / "hippocampus_crop", tmp_path / "b")
    (tmp_path / "l.csv").write_text("case,MRI,class\na,a,x\nb,b/1.dcm,y\n")
    dataset = convert(tmp_path / "l.csv")
    assert [case.channels[0].path for case in dataset.cases] == [tmp_path / "a", tmp_path / "b" / "1.dcm"]
    assert dataset.manifest.channels == {"MRI": "mri"}


def test_a_folder_of_dicom_can_be_predicted(tmp_path) -> None:
    (case,) = find_inputs(REAL, ["MRI"])
    assert case.id == "hippocampus_crop"
    (case,) = find_inputs(REAL / "hippocampus_crop" / "7.dcm", ["MRI"])
    assert case.id == "hippocampus_crop"
    with pytest.raises(DatasetError, match="Write a list of cases with one column per channel"):
        find_inputs(REAL, ["T1", "T2"])


def test_a_damaged_file_is_a_case_of_its_own(tmp_path) -> None:
    shutil.copytree(REAL / "hippocampus_crop", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.dcm").write_bytes(b"cut off")
    a, b = find_inputs(tmp_path, ["MRI"])
    assert read_image(a.channels[0].path).array.shape == (35, 51, 32)
    assert b.fault is not None and "1.dcm: is truncated or not DICOM" in b.fault
    with pytest.raises(CaseError, match=r"1\.dcm: is truncated"):
        read_image(tmp_path / "b")
