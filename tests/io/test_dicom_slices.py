"""Slices are written by pydicom; what is expected is by hand, or SimpleITK's reading of the right files."""

import re
import shutil

import numpy as np
import pytest

from mambamed.errors import CaseError
from mambamed.io.dicom import grid_of
from mambamed.io.images import read_image
from tests.io.pydicom_series import CORONAL, some_voxels, write_axial, write_slice
from tests.io.test_dicom_series import assert_equals_simpleitk

pytest.importorskip("pydicom")


def test_numbers_are_compared_and_not_their_text(tmp_path) -> None:
    texts = [(["1.5", "1.5"], ["1", "0", "0", "0", "1", "0"])]
    texts += [(["1.500000", "1.50"], ["1.0", "0.0", "-0", "0e0", "1.0000001", "0"])]
    files = []
    for number, plane in enumerate(some_voxels(4)):
        spacing, orientation = texts[number % 2]
        files.append(tmp_path / f"{number}.dcm")
        write_slice(files[-1], 2.0 * number, plane, PixelSpacing=spacing, ImageOrientationPatient=orientation)
    image = read_image(tmp_path)
    assert image.spacing == (1.5, 1.5, 2.0)
    assert_equals_simpleitk(image, files)


def test_a_pixel_spacing_beyond_the_tolerance_is_left_out_or_refused(tmp_path) -> None:
    """0.1 %: 0.7505 beside 0.75 is one grid, 0.76 is not."""
    write_axial(tmp_path / "a", [0, 2, 4, 6], PixelSpacing=[0.7505, 0.5])
    write_axial(tmp_path / "a", [8, 10, 12, 14], prefix="b", PixelSpacing=[0.75, 0.5])
    assert grid_of(tmp_path / "a").shape == (5, 4, 8)
    write_axial(tmp_path / "a", [8, 10, 12, 14], prefix="b", PixelSpacing=[0.76, 0.5])
    with pytest.raises(CaseError, match=r"2 orientations or sizes: 4 like 1\.dcm \(5 x 4 voxels of 0\.7505"):
        grid_of(tmp_path / "a")


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ({"ImageOrientationPatient": CORONAL}, r"orientation .*coronal, others 5 x 4 .*axial"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "image type"),
        ({"ImageOrientationPatient": None, "ImagePositionPatient": None}, "orientation .*no orientation"),
        ({"PixelSpacing": [3, 3]}, "pixel spacing"),
        ({"shape": (8, 5)}, "rows .*5 x 8"),
    ],
    ids=["orientation", "type", "no place", "spacing", "size"],
)
def test_a_localizer_among_the_slices_is_left_out_and_named(tmp_path, caplog, odd, what) -> None:
    """Named first, so that the true slices are not measured by it."""
    folder = tmp_path / "ct"
    write_axial(folder, [2.0 * n for n in range(6)])
    odd = dict(odd)
    plane = some_voxels(1, shape=odd.pop("shape", (4, 5)))[0]
    write_slice(folder / "0.dcm", 5.0, plane, **odd)
    image = read_image(folder)
    assert_equals_simpleitk(image, [folder / f"{n}.dcm" for n in range(1, 7)])
    (record,) = caplog.records
    assert f"{folder}: series thin: 0.dcm: left out" in record.getMessage()
    assert re.search(what, record.getMessage())


def test_three_planes_are_no_volume_with_a_localizer(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4, 6])
    write_axial(tmp_path, [0, 2, 4], prefix="c", ImageOrientationPatient=CORONAL)
    with pytest.raises(CaseError, match=r"2 orientations or sizes: 4 like .*axial\); 3 like .*coronal\)"):
        read_image(tmp_path)


def test_a_slice_is_missing_when_the_localizer_is_left_out(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4, 8, 10])
    write_slice(tmp_path / "0.dcm", 6.0, some_voxels(1)[0], ImageOrientationPatient=CORONAL)
    with pytest.raises(CaseError, match=r"uneven spacing, 4 mm between 3\.dcm and 4\.dcm"):
        read_image(tmp_path)


def test_of_a_copied_slice_one_is_kept_and_said(tmp_path, caplog) -> None:
    voxels = write_axial(tmp_path / "a", [0, 2, 4])
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "2.dcm", tmp_path / "b" / "copy.dcm")
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.array, voxels.transpose(2, 1, 0))
    assert "copies of slices are left out: b/copy.dcm of a/2.dcm" in caplog.text


def test_one_uid_for_two_images_at_one_place_is_refused(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4])
    first = write_slice(tmp_path / "2.dcm", 2, some_voxels(1)[0])
    write_slice(tmp_path / "x.dcm", 2, some_voxels(1, seed=9)[0], SOPInstanceUID=first.SOPInstanceUID)
    with pytest.raises(CaseError, match=r"x\.dcm: has the SOPInstanceUID of .*2\.dcm, but other voxels"):
        read_image(tmp_path)


def test_one_sop_uid_for_all_slices_does_not_make_them_copies(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4], SOPInstanceUID="1.2.3.77")
    assert grid_of(tmp_path).shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"AcquisitionNumber": 2}, r"AcquisitionNumber \(1, 2\)"),
        ({"EchoTime": 80}, r"EchoTime \(10, 80\)"),
        ({"AcquisitionTime": "101500"}, r"AcquisitionTime\."),
        ({"TemporalPositionIdentifier": 2}, r"TemporalPositionIdentifier \(1, 2\)"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, r"ImageType\."),
    ],
    ids=["number", "echo", "time", "temporal", "type"],
)
@pytest.mark.parametrize("shift", [0.0, 6.0, 5.3], ids=["same places", "overlap", "between"])
def test_two_acquisitions_are_told_by_the_tag_that_differs(tmp_path, second, what, shift) -> None:
    tags = {
        "AcquisitionNumber": 1, "EchoTime": 10, "AcquisitionTime": "101010", "TemporalPositionIdentifier": 1,
        "ImageType": ["ORIGINAL", "PRIMARY"],
    }  # fmt: skip
    write_axial(tmp_path, [2.0 * n for n in range(6)], prefix="a", **tags)
    write_axial(tmp_path, [2.0 * n + shift for n in range(6)], prefix="b", **(tags | second))
    with pytest.raises(CaseError, match=f"2 acquisitions of 6 and 6 slices, which differ in {what}") as error:
        read_image(tmp_path)
    assert "missing" not in str(error.value)
    assert "101500" not in str(error.value)


def test_a_missing_slice_is_still_told(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4, 8], AcquisitionNumber=1)
    with pytest.raises(CaseError, match=r"uneven spacing, 4 mm between 3\.dcm and 4\.dcm, 2 mm elsewhere"):
        read_image(tmp_path)


def test_damaged_numbers_are_named_without_their_text(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"0.75\\0.5", b"DoeJane "))
    with pytest.raises(CaseError, match=r"\(0028,0030\): expected 2 numbers, got 0") as error:
        read_image(tmp_path)
    assert "Jane" not in str(error.value)


def test_slices_have_their_own_rescale_slopes(tmp_path) -> None:
    """Each slice by hand: slope * stored + intercept; a fraction in the third makes all of them floats."""
    stored, slopes = some_voxels(4), (1, 2, 0.5, 1)
    for number, (plane, slope) in enumerate(zip(stored, slopes, strict=True)):
        scaling = {"RescaleSlope": slope, "RescaleIntercept": -1000}
        write_slice(tmp_path / f"{number}.dcm", 2.0 * number, plane, **scaling)
    array = read_image(tmp_path).array
    expected = stored * np.array(slopes)[:, None, None] - 1000.0
    assert array.dtype.kind == "f"
    np.testing.assert_allclose(array, expected.transpose(2, 1, 0))
