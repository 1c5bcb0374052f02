"""Slices are written by SimpleITK's GDCM, and volumes compared with its own series reader; faults are made by
hand: a slice taken away, doubled, moved, turned, cut."""

import locale
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed.errors import CaseError
from mambamed.io.dicom import find_series, is_dicom
from mambamed.io.images import read_header, read_image
from tests.real_data import DATA

REAL = DATA / "dicom" / "hippocampus_crop"
# Columns run along -y and rows along z: a coronal series, in LPS.
ALONG_X, ALONG_Y = (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
UID = "1.2.826.0.1.3680043.2.1125"


def write_series(
    folder: Path, steps: list[float], series: int = 1, tilt: float = 0.0, intercept: int = -1000
) -> np.ndarray:
    """Slices 5 x 4 at the given distances along the normal, in names that do not sort as their places."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(ALONG_X, ALONG_Y)
    values = np.random.default_rng(series).integers(0, 2000, (5, 4, len(steps)))
    before = locale.setlocale(locale.LC_CTYPE)
    for number, step in enumerate(steps):
        image = sitk.GetImageFromArray(values[:, :, number].T[None].astype(np.int16))
        place = np.array([10.0, 20.0, 30.0]) + normal * step + np.array(ALONG_Y) * tilt * step
        tags = {
            "0008|0060": "CT",
            "0008|103e": f"series {series}",
            "0020|000d": UID,
            "0020|000e": f"{UID}.{series}",
            "0020|0032": "\\".join(f"{v:.6f}" for v in place),
            "0020|0037": "\\".join(map(str, (*ALONG_X, *ALONG_Y))),
            "0020|0013": str(number),
            "0028|0030": "0.75\\0.5",
            "0028|1052": str(intercept),
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        image.SetSpacing((0.5, 0.75, 1.0))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{(number * 7) % len(steps):03d}_{series}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_CTYPE, before)  # GDCM's writer leaves it as "C"
    return values


def test_a_series_is_sorted_by_position_and_lies_where_it_says(tmp_path) -> None:
    """The affine by hand: x along a row 0.5 mm, y down a column 0.75 mm, z along the normal; LPS to RAS."""
    values = write_series(tmp_path / "ct", [2.5 * n for n in range(5)])
    image = read_image(tmp_path / "ct")
    assert image.array.shape == (5, 4, 5)
    np.testing.assert_array_equal(image.array, values)
    expected = np.array([[-0.5, 0, 0, -10], [0, 0, -2.5, -20], [0, -0.75, 0, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(image.affine, expected, atol=1e-9)
    header = read_header(tmp_path / "ct")
    assert header.shape == (5, 4, 5)
    np.testing.assert_array_equal(header.affine, image.affine)


def test_one_file_stands_for_its_series_among_several(tmp_path) -> None:
    write_series(tmp_path, [0, 2, 4], series=1)
    second = write_series(tmp_path, [0, 2, 4, 6], series=2)
    np.testing.assert_array_equal(read_image(tmp_path / "000_2.dcm").array, second)
    assert [len(series.files) for series in find_series(tmp_path)] == [3, 4]
    with pytest.raises(CaseError, match=r"2 DICOM series: series 1 \(000_1\.dcm\), series 2 \(000_2"):
        read_image(tmp_path)


@pytest.mark.parametrize("step", [0.0, 2.5])
def test_slices_that_do_not_make_a_grid_are_refused(tmp_path, step) -> None:
    write_series(tmp_path, [0, 2.5, 5, 5 + step if step == 0 else 10, 12.5])
    with pytest.raises(CaseError, match="duplicate slices" if step == 0 else r"uneven spacing, 5 mm between"):
        read_image(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path) -> None:
    write_series(tmp_path, [0, 2, 4, 6], tilt=0.2)
    with pytest.raises(CaseError, match="gantry tilt"):
        read_image(tmp_path)


def test_a_slice_that_was_cut_off_is_refused(tmp_path) -> None:
    write_series(tmp_path, [0, 2, 4, 6])
    path = tmp_path / "001_1.dcm"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CaseError, match=r"001_1\.dcm: (is )?truncated"):
        read_image(tmp_path)


def test_a_single_slice_is_no_volume(tmp_path) -> None:
    write_series(tmp_path, [0])
    with pytest.raises(CaseError, match="2D, not 3D"):
        read_image(tmp_path)


def test_what_is_no_dicom_is_told(tmp_path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no such thing")
    with pytest.raises(CaseError, match=r"a\.dcm: .* not DICOM"):
        read_image(tmp_path / "a.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="folder without DICOM images"):
        read_image(tmp_path / "empty")
    assert not is_dicom(tmp_path / "empty")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_a_real_series_equals_what_simpleitks_series_reader_gives(tmp_path) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(REAL)))
    theirs = reader.Execute()
    ours = read_image(REAL)
    np.testing.assert_array_equal(ours.array, sitk.GetArrayFromImage(theirs).transpose(2, 1, 0))
    assert theirs.GetOrigin() == (0, 0, 1)
    assert theirs.GetSpacing() == (1, 1, 1)
    np.testing.assert_allclose(ours.affine, [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_a_real_series_with_a_slice_taken_away_is_refused(tmp_path) -> None:
    shutil.copytree(REAL, tmp_path / "cut")
    (tmp_path / "cut" / "14.dcm").unlink()
    with pytest.raises(CaseError, match=r"uneven spacing, 2 mm between 13\.dcm and 15\.dcm, 1 mm"):
        read_image(tmp_path / "cut")
