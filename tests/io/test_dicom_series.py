"""Slices are written by pydicom; volumes and affines are those of SimpleITK's series reader, or by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed.converters import convert
from mambamed.converters.dicom import series_cases
from mambamed.converters.inputs import find_inputs
from mambamed.errors import CaseError
from mambamed.io.dicom import find_series, is_dicom, series_of
from mambamed.io.images import read_image
from tests.io.pydicom_series import some_voxels, write_axial, write_slice

pytest.importorskip("pydicom")


def assert_equals_simpleitk(image, files: list[Path]) -> None:
    """`files` in the order of the slices."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    theirs = reader.Execute()
    np.testing.assert_array_equal(image.array, sitk.GetArrayFromImage(theirs).transpose(2, 1, 0))
    lps = np.eye(4)
    lps[:3, :3] = np.array(theirs.GetDirection()).reshape(3, 3) * np.array(theirs.GetSpacing())
    lps[:3, 3] = theirs.GetOrigin()
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-6)


def of_case(case):
    channel = case.channels[0]
    return read_image(channel.path, channel.volume, files=channel.files)


def in_folders(root: Path, heights: list[float], folder_of) -> list[Path]:
    """One series whose slice number n lies in the folder `folder_of(n)`; files in the order of the slices."""
    files = []
    for number, (z, plane) in enumerate(zip(heights, some_voxels(len(heights)), strict=True)):
        files.append(root / folder_of(number) / f"{number}.dcm")
        write_slice(files[-1], z, plane)
    return files


@pytest.mark.parametrize(
    "folder_of", [lambda n: "ab"[n % 2], lambda n: "ab"[n // 4]], ids=["alternate", "halves"]
)
def test_a_series_in_two_folders_is_one_case(tmp_path, folder_of) -> None:
    files = in_folders(tmp_path / "in" / "p1", [2.0 * n for n in range(8)], folder_of)
    (case,) = find_inputs(tmp_path / "in", ["CT"])
    assert case.id == "p1"
    assert_equals_simpleitk(of_case(case), files)
    assert_equals_simpleitk(read_image(tmp_path / "in"), files)
    (series,) = find_series(tmp_path / "in")
    assert (series.folder, len(series.files)) == (tmp_path / "in" / "p1", 8)


def test_a_cell_of_a_list_stands_for_the_series_below_the_lists_folder(tmp_path) -> None:
    """A file: its series wherever it lies below the list; a folder: what lies below the folder."""
    files = in_folders(tmp_path / "p1", [2.0 * n for n in range(8)], lambda n: "ab"[n % 2])
    (tmp_path / "l.csv").write_text("case,CT,class\nx,p1/a/0.dcm,k\ny,p1,k\nz,p1/a,m\n")
    for cases in (convert(tmp_path / "l.csv").cases, find_inputs(tmp_path / "l.csv", ["CT"])):
        x, y, z = cases
        assert_equals_simpleitk(of_case(x), files)
        assert_equals_simpleitk(of_case(y), files)
        assert_equals_simpleitk(of_case(z), files[::2])


def test_a_series_without_a_uid_is_that_of_its_folder(tmp_path) -> None:
    write_axial(tmp_path / "a", [0, 2, 4], seed=1, SeriesInstanceUID=None)
    write_axial(tmp_path / "b", [0, 2, 4], seed=2, SeriesInstanceUID=None)
    assert [case.id for case, _ in series_cases(tmp_path)] == ["a", "b"]


def test_files_of_two_persons_with_one_uid_are_not_joined(tmp_path) -> None:
    write_axial(tmp_path / "a", [0, 2], PatientID="one")
    write_axial(tmp_path / "b", [4, 6], PatientID="two")
    with pytest.raises(CaseError, match=r"PatientID differs between a/1\.dcm and b/1\.dcm") as error:
        read_image(tmp_path)
    assert '"two"' not in str(error.value)


@pytest.mark.parametrize("name", ["IM0001", "slice", "scan.v2", "x.img"])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_is_found_whatever_its_name_and_preamble(tmp_path, name, implicit, preamble) -> None:
    files = []
    for number, plane in enumerate(some_voxels(3)):
        stem, dot, suffix = name.partition(".")
        files.append(tmp_path / "in" / f"{stem}{number}{dot}{suffix}")
        write_slice(files[-1], 2.0 * number, plane, preamble=preamble, implicit=implicit)
    assert all(map(is_dicom, files))
    (case,) = find_inputs(tmp_path / "in", ["CT"])
    assert_equals_simpleitk(of_case(case), files)


def test_what_begins_like_dicom_and_is_none_is_passed_over(tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x08\x00\x05\x00\x04\x00\x00\x00" + b"x" * 300)
    assert not is_dicom(tmp_path / "a.bin")


def test_one_uid_per_slice_is_read_as_one_series(tmp_path, caplog) -> None:
    for number, plane in enumerate(some_voxels(4)):
        write_slice(
            tmp_path / "p" / f"{number}.dcm", 2.0 * number, plane, SeriesInstanceUID=f"1.2.3.{number}"
        )
    (case,) = find_inputs(tmp_path, ["CT"])
    assert_equals_simpleitk(of_case(case), [tmp_path / "p" / f"{n}.dcm" for n in range(4)])
    assert "4 SeriesInstanceUIDs, one per slice, are read as one series" in caplog.text
    (tmp_path / "p" / "2.dcm").unlink()
    (case,) = find_inputs(tmp_path, ["CT"])
    with pytest.raises(CaseError, match=r"uneven spacing.*3 SeriesInstanceUIDs, one per slice"):
        of_case(case)


def test_slices_of_two_studies_are_not_joined(tmp_path) -> None:
    for study in (1, 2):
        for number, plane in enumerate(some_voxels(3)):
            uids = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.{number}"}
            write_slice(tmp_path / f"{study}_{number}", 2.0 * number, plane, **uids)
    assert [len(series.files) for series in find_series(tmp_path)] == [3, 3]


def test_a_truncated_slice_is_of_the_series_that_it_names(tmp_path) -> None:
    """The last slice, without which the others are evenly spaced."""
    write_axial(tmp_path, [0, 2, 4, 6])
    whole = (tmp_path / "4.dcm").read_bytes()
    (tmp_path / "4.dcm").write_bytes(whole[:-20])
    with pytest.raises(CaseError, match=r"4\.dcm: is truncated"):
        read_image(tmp_path)


def test_objects_without_an_image_are_no_cases(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4])
    plan = dict.fromkeys(("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"))
    for name, kind in (("rt.dcm", "481.3"), ("report.dcm", "88.11")):
        uid = f"1.2.840.10008.5.1.4.1.1.{kind}"
        write_slice(tmp_path / name, 0, some_voxels(1)[0], SOPClassUID=uid, **plan)
    assert [len(series.files) for series in find_series(tmp_path)] == [3]
    with pytest.raises(CaseError, match=r"rt\.dcm: is a DICOM file without an image \(RTSTRUCT\)"):
        read_image(tmp_path / "rt.dcm")


def test_links_to_folders_are_followed_once(tmp_path) -> None:
    write_axial(tmp_path / "data" / "p1", [0, 2, 4])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p1").symlink_to(tmp_path / "data" / "p1")
    (tmp_path / "data" / "p1" / "self").symlink_to(tmp_path / "in")
    (series,) = find_series(tmp_path / "in")
    assert len(series.files) == 3


def test_a_file_stands_for_the_series_in_its_folder_and_below(tmp_path) -> None:
    write_axial(tmp_path, [0, 2, 4])
    shutil.move(tmp_path / "3.dcm", tmp_path / "3")
    (tmp_path / "more").mkdir()
    shutil.move(tmp_path / "2.dcm", tmp_path / "more" / "2.dcm")
    assert len(series_of(tmp_path / "1.dcm").files) == 3


def test_an_unreadable_file_is_a_case_and_the_names_of_others_stay(tmp_path, caplog) -> None:
    write_axial(tmp_path / "p1", [0, 2, 4])
    (tmp_path / "p1" / "x.dcm").write_bytes(b"")
    good, bad = find_inputs(tmp_path, ["CT"])
    assert (good.id, bad.id) == ("p1", "p1_x.dcm")
    assert of_case(good).array.shape == (5, 4, 3)
    assert bad.channels == () and "x.dcm: is truncated or not DICOM" in str(bad.fault)
    assert read_image(tmp_path / "p1").array.shape == (5, 4, 3)
    assert "p1/x.dcm: cannot be read and left out. Copy it again if it is a slice." in caplog.text


def test_libraries_show_no_values_of_tags(tmp_path, capfd, recwarn) -> None:
    """Values that no representation allows, of which GDCM, ITK and pydicom warn."""
    pydicom = pytest.importorskip("pydicom")
    write_axial(tmp_path / "in", [0, 2, 4], RescaleSlope="1", WindowCenter="4711")
    for path in (tmp_path / "in").iterdir():
        data = path.read_bytes().replace(b"Doe^Jane", b"D\\e\xffJane").replace(b"4711", b"Jane")
        path.write_bytes(data)
    read_image(tmp_path / "in")
    from mambamed.io.dicom_files import pydicom as quiet

    quiet().dcmread(next((tmp_path / "in").iterdir())).walk(lambda _, element: element.value)
    out, err = capfd.readouterr()
    assert (out, err, [str(w.message) for w in recwarn]) == ("", "", [])
    assert pydicom is quiet()


def test_prepare_records_the_files_of_a_series_in_two_folders(tmp_path) -> None:
    """`predict --part` reads what `prepare` did, and learns of a slice that is gone."""
    from mambamed.converters.prepared import cases_of_part
    from mambamed.preparation.prepare import prepare

    heights = [2.0 * n for n in range(8)]
    for case in "xy":
        in_folders(tmp_path / case, heights, lambda n: "ab"[n % 2])
    (tmp_path / "l.csv").write_text("case,CT,class\nx,x/a/0.dcm,k\ny,y/b/1.dcm,m\n")
    for path in (tmp_path / "y").rglob("*.dcm"):
        path.write_bytes(path.read_bytes().replace(b"1.2.3.9", b"1.2.3.8"))
    prepare(convert(tmp_path / "l.csv"), tmp_path / "out", qc=False, workers=1)
    cases = [case for part in ("train", "val") for case in cases_of_part(tmp_path / "out", part, [0], ["CT"])]
    assert [(of_case(case).spacing[2], of_case(case).array.shape) for case in cases] == [(2.0, (5, 4, 8))] * 2
    (tmp_path / "y" / "a" / "4.dcm").unlink()
    cases = [case for part in ("train", "val") for case in cases_of_part(tmp_path / "out", part, [0], ["CT"])]
    (y,) = [case for case in cases if case.id == "y"]
    assert f"{tmp_path}/y/a/4.dcm: no such file" in str(y.fault)


def test_slices_next_to_the_given_folder_are_named(tmp_path, caplog) -> None:
    """Every other slice lies in b: a alone has 4 mm instead of 2."""
    in_folders(tmp_path / "p1", [2.0 * n for n in range(8)], lambda n: "ab"[n % 2])
    write_axial(tmp_path / "p1" / "c", [0, 2, 4], SeriesInstanceUID="1.2.77")
    line = f"{tmp_path}/p1/b: more slices of the series in {tmp_path}/p1/a. Give {tmp_path}/p1 to read all."
    for read in (read_image, lambda path: find_inputs(path, ["CT"])):
        caplog.clear()
        read(tmp_path / "p1" / "a")
        assert [record.getMessage() for record in caplog.records] == [line]
    caplog.clear()
    find_inputs(tmp_path / "p1", ["CT"])
    assert caplog.text == ""
