"""The real series of the test data: found, of one channel, and nothing to learn from."""

import os
import shutil
from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.converters.dicom import series_cases
from mambamed.errors import DatasetError

DATA = Path(os.environ.get("MAMBAMED_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = DATA / "dicom"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")


def test_a_folder_of_dicom_has_nothing_to_learn_from() -> None:
    with pytest.raises(DatasetError, match="1 cases, but no label, landmark or class to learn from"):
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
