"""Enhanced DICOM made here frame by frame; highdicom reads the same files, and its volumes equal ours."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.errors import CaseError
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import read_header, read_image

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

MR, SEG = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.66.4"
ALONG_X, ALONG_Y = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
SHAPE = (6, 4, 5)  # frames, rows, columns
ORDER = (3, 0, 5, 1, 4, 2)  # place of each frame along the normal


def sequence(**values) -> "pydicom.Sequence":
    item = pydicom.Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def write_frames(
    path: Path, *, order=ORDER, slopes=(1.0,), intercept=0.0, kind=MR, highest=2000
) -> np.ndarray:
    """`(frames, rows, columns)` as stored; 0.7 mm between rows, 0.5 between columns, 2.5 between frames."""
    stored = np.random.default_rng(1).integers(0, highest, SHAPE).astype(np.uint16)
    document = pydicom.Dataset()
    document.file_meta = pydicom.dataset.FileMetaDataset()
    document.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    document.file_meta.MediaStorageSOPClassUID = document.SOPClassUID = kind
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    document.StudyInstanceUID, document.SeriesInstanceUID = (pydicom.uid.generate_uid() for _ in range(2))
    document.FrameOfReferenceUID = pydicom.uid.generate_uid()
    document.Modality, document.PatientID, document.InstanceNumber = "MR", "p", "1"
    document.NumberOfFrames, document.Rows, document.Columns = SHAPE
    document.BitsAllocated = document.BitsStored = 16
    document.HighBit, document.PixelRepresentation, document.SamplesPerPixel = 15, 0, 1
    document.PhotometricInterpretation = "MONOCHROME2"
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[0.7, 0.5], SliceThickness=2.5)
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=[*ALONG_X, *ALONG_Y])
    document.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    frames = []
    for number, place in enumerate(order):
        frame = pydicom.Dataset()
        position = np.array([10.0, -20.0, 30.0]) + 2.5 * place * np.cross(ALONG_X, ALONG_Y)
        frame.PlanePositionSequence = sequence(ImagePositionPatient=[round(float(v), 6) for v in position])
        frame.PixelValueTransformationSequence = sequence(
            RescaleSlope=slopes[number % len(slopes)], RescaleIntercept=intercept, RescaleType="US"
        )
        frames.append(frame)
    document.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    document.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    document.save_as(path, enforce_file_format=True)
    return stored


@pytest.mark.parametrize(
    ("slopes", "intercept", "dtype"),
    [((1.0,), 0.0, "uint16"), ((1.0,), -1024.0, "int16"), ((0.5, 2.0), 3.0, "float32")],
)
def test_frames_lie_where_they_say_with_their_own_scaling(tmp_path, slopes, intercept, dtype) -> None:
    stored = write_frames(tmp_path / "mr" / "image.dcm", slopes=slopes, intercept=intercept)
    image = read_image(tmp_path / "mr")
    assert image.array.dtype == dtype
    assert image.array.shape == read_header(tmp_path / "mr").shape == (5, 4, 6)
    for number, place in enumerate(ORDER):
        expected = stored[number].T * slopes[number % len(slopes)] + intercept
        np.testing.assert_allclose(image.array[:, :, place], expected, rtol=1e-6)
    volume = highdicom.imread(tmp_path / "mr" / "image.dcm").get_volume(apply_real_world_transform=False)
    lps = volume.affine @ np.eye(4)
    ours = np.diag([-1, -1, 1, 1]) @ image.affine
    # highdicom's axes are (slice, row, column), in an order of slices of its own: compared through the world
    index = np.argwhere(np.ones(volume.array.shape, bool))
    places = np.rint(nib.affines.apply_affine(np.linalg.inv(ours), nib.affines.apply_affine(lps, index)))
    x, y, z = places.astype(int).T
    np.testing.assert_allclose(image.array[x, y, z], volume.array.reshape(-1), rtol=1e-6)
    assert len(np.unique(places, axis=0)) == image.array.size


def test_values_beyond_16_bits_are_kept(tmp_path) -> None:
    stored = write_frames(tmp_path / "a.dcm", intercept=-1024.0, highest=65535)
    array = read_image(tmp_path / "a.dcm").array
    assert (array.min(), array.max()) == (int(stored.min()) - 1024, int(stored.max()) - 1024)


def test_frames_that_do_not_make_a_volume_are_refused(tmp_path) -> None:
    write_frames(tmp_path / "echoes" / "a.dcm", order=(0, 0, 1, 1, 2, 2))
    with pytest.raises(CaseError, match="duplicate slices frame 1 and frame 2"):
        read_image(tmp_path / "echoes")
    write_frames(tmp_path / "gap" / "a.dcm", order=(0, 1, 2, 3, 4, 6))
    with pytest.raises(CaseError, match="uneven spacing"):
        read_image(tmp_path / "gap")
    write_frames(tmp_path / "seg" / "a.dcm", kind=SEG)
    with pytest.raises(CaseError, match="seg: is a folder without DICOM images, only SEG"):
        read_image(tmp_path / "seg")
    with pytest.raises(CaseError, match=r"is a DICOM file without an image \(SEG\)"):
        read_image(tmp_path / "seg" / "a.dcm")


def test_frames_that_were_cut_off_are_refused(tmp_path) -> None:
    write_frames(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:-100])
    with pytest.raises(CaseError, match=r"a\.dcm: "):
        read_image(tmp_path / "a.dcm")


def test_without_pydicom_the_way_out_is_told(tmp_path, monkeypatch) -> None:
    write_frames(tmp_path / "a.dcm")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(CaseError, match=r"pip install 'mambamed\[dicom\]'"):
        read_image(tmp_path / "a.dcm")


def test_a_segmentation_of_frames_refers_to_each_of_them(tmp_path) -> None:
    write_frames(tmp_path / "mr" / "image.dcm")
    labels = np.zeros((5, 4, 6), np.uint8)
    labels[1:3, 2, 1], labels[4, 0, 5] = 1, 1
    write_segmentation(tmp_path / "out.dcm", labels, tmp_path / "mr", {"background": 0, "lesion": 1}, "")
    document = pydicom.dcmread(tmp_path / "out.dcm")
    source = pydicom.dcmread(tmp_path / "mr" / "image.dcm").PerFrameFunctionalGroupsSequence
    planes = document.pixel_array.reshape(-1, 4, 5)
    found = np.zeros_like(labels)
    for plane, facts in zip(planes, document.PerFrameFunctionalGroupsSequence, strict=True):
        position = facts.PlanePositionSequence[0].ImagePositionPatient
        (number,) = [
            n for n, each in enumerate(source)
            if np.allclose(each.PlanePositionSequence[0].ImagePositionPatient, position, atol=1e-3)
        ]  # fmt: skip
        found[:, :, ORDER[number]] = plane.T
    np.testing.assert_array_equal(found, labels)


def one_frame_per_file(folder: Path) -> np.ndarray:
    """The frames of `write_frames`, each in a file of its own."""
    stored = write_frames(folder / "all.dcm")
    whole = pydicom.dcmread(folder / "all.dcm")
    for number in range(SHAPE[0]):
        one = pydicom.dcmread(folder / "all.dcm")
        one.PerFrameFunctionalGroupsSequence = [whole.PerFrameFunctionalGroupsSequence[number]]
        one.NumberOfFrames, one.PixelData = 1, stored[number].tobytes()
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (folder / "all.dcm").unlink()
    return stored


def test_enhanced_objects_of_one_frame_each_are_slices(tmp_path) -> None:
    """As one object with all frames, which highdicom agrees with above."""
    stored = one_frame_per_file(tmp_path / "many")
    write_frames(tmp_path / "one" / "image.dcm")
    one, many = read_image(tmp_path / "one"), read_image(tmp_path / "many")
    np.testing.assert_array_equal(many.array, one.array)
    np.testing.assert_array_equal(many.affine, one.affine)
    np.testing.assert_array_equal(many.array[:, :, ORDER[2]], stored[2].T)


def test_a_copy_of_enhanced_frames_is_left_out(tmp_path, caplog) -> None:
    write_frames(tmp_path / "mr" / "a.dcm")
    (tmp_path / "mr" / "b.dcm").write_bytes((tmp_path / "mr" / "a.dcm").read_bytes())
    assert read_image(tmp_path / "mr").array.shape == (5, 4, 6)
    assert "copies of slices are left out: b.dcm, frame 1 of a.dcm, frame 1" in caplog.text
