"""DICOM Segmentation on the grid of its image: objects of highdicom, compared with what highdicom reads."""

import itertools
import sys

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.geometry import affine_to_ras, orientation_of
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import Image, read_image
from mambamed.io.segments import check_reference, is_segmentation, label_map, own_grid, read_contents
from tests.io.pydicom_series import write_axial
from tests.real_data import DATA

REAL = DATA / "dicom" / "hippocampus_crop"
NAMES = SegmentNames({"background": 0, "liver": 1, "tumor": 2})
HEIGHTS = [3.0 * n for n in range(6)]
EMPTY = (
    "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip
turn = np.deg2rad(20)
OBLIQUE = [np.cos(turn), 0, np.sin(turn), 0, 1, 0]  # turned about y; the slices go along the new normal
NORMAL = np.array([-np.sin(turn), 0, np.cos(turn)])


def write_oblique(folder, count: int = 6) -> None:
    write_axial(folder, [0.0] * count, ImageOrientationPatient=OBLIQUE)
    for number in range(count):
        path = folder / f"{number + 1}.dcm"
        document = pydicom.dcmread(path)
        place = np.array([10.0, 20.0, 5.0]) + 3.0 * number * NORMAL
        document.ImagePositionPatient = [f"{value:.6f}" for value in place]
        document.save_as(path)


def masks(shape=(6, 4, 5)) -> np.ndarray:
    """`(slices, rows, columns, 2)`: two segments that do not meet."""
    found = np.zeros((*shape, 2), np.uint8)
    found[1:4, 1:3, 0:2, 0], found[2:5, 0:3, 3:5, 1] = 1, 1
    return found


def write_seg(path, folder, pixels, names=("liver", "tumor"), kind="BINARY", only=None, **more):
    sources = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]
    sources = [sources[n] for n in only] if only else sources
    anatomy = codes.SCT.AnatomicalStructure
    segments = [
        hd.seg.SegmentDescription(n, name, anatomy, anatomy, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for n, name in enumerate(names, 1)
    ]
    for source, keyword in itertools.product(sources, EMPTY):
        setattr(source, keyword, None)
        source.SliceThickness = 3
    document = hd.seg.Segmentation(
        sources, pixels, kind, segments, hd.UID(), 7, hd.UID(), 1, "m", "m", "1", "0", **more
    )
    document.save_as(path)
    return document


def read_by_highdicom(path, image: Image) -> np.ndarray:
    """`(X, Y, Z, segments)` on the grid of the image, whose slices are sorted by position."""
    seg = hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=False)
    whole = np.zeros((*image.array.shape, volume.array.shape[-1]), np.uint8)
    lps = np.diag([-1.0, -1, 1, 1])
    step = np.linalg.inv(image.affine) @ lps @ volume.affine
    for index in np.argwhere(volume.array):
        x, y, z = np.rint(step[:3] @ [*index[:3], 1]).astype(int)
        whole[x, y, z, index[3]] = 1
    return whole


@pytest.mark.parametrize(
    "write", [lambda f: write_axial(f, HEIGHTS), write_oblique], ids=["axial", "oblique"]
)
@pytest.mark.parametrize("only", [None, [1, 2, 3]], ids=["all slices", "some slices"])
def test_every_voxel_is_where_highdicom_has_it(tmp_path, write, only) -> None:
    write(tmp_path / "ct")
    pixels = masks() if only is None else masks()[only]
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", pixels, only=only)
    image = read_image(tmp_path / "ct")
    found = label_map(tmp_path / "seg.dcm", image.array.shape, image.affine, NAMES)
    expected = read_by_highdicom(tmp_path / "seg.dcm", image)
    assert expected[..., 0].sum() == pixels[..., 0].sum() and expected[..., 1].sum() == pixels[..., 1].sum()
    np.testing.assert_array_equal(found, expected[..., 0] + 2 * expected[..., 1])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_both_encodings_hold_the_same(tmp_path, kind) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks(), kind=kind)
    image = read_image(tmp_path / "ct")
    found = label_map(tmp_path / "seg.dcm", image.array.shape, image.affine, NAMES)
    np.testing.assert_array_equal(found, (masks() @ [1, 2]).transpose(2, 1, 0))


def test_the_grid_of_the_file_itself(tmp_path) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks())
    image = read_image(tmp_path / "ct")
    shape, affine = own_grid(tmp_path / "seg.dcm")
    assert shape == (5, 4, 4)  # slices 1 to 4 have frames
    np.testing.assert_allclose(affine[:3, 3], (image.affine @ [0, 0, 1, 1])[:3])
    np.testing.assert_allclose(affine[:3, :3], image.affine[:3, :3])


def test_segments_that_share_voxels_are_regions_or_refused(tmp_path) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    pixels = masks()
    pixels[..., 1] = 0
    pixels[2, 1, 1, 1] = 1
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", pixels)
    image = read_image(tmp_path / "ct")
    with pytest.raises(CaseError, match="layers overlap: 1 voxels are in liver and tumor"):
        label_map(tmp_path / "seg.dcm", image.array.shape, image.affine, NAMES)
    names = SegmentNames({"background": 0, "rest": 1, "tumor": 2}, {"liver": (1, 2), "tumor": (2,)})
    found = label_map(tmp_path / "seg.dcm", image.array.shape, image.affine, names)
    np.testing.assert_array_equal(found, (pixels @ [1, 1]).transpose(2, 1, 0))


def test_fractions_are_refused(tmp_path) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    more = {"fractional_type": "PROBABILITY", "max_fractional_value": 100}
    write_seg(
        tmp_path / "seg.dcm", tmp_path / "ct", masks().astype(np.float32) / 2, kind="FRACTIONAL", **more
    )
    with pytest.raises(CaseError, match=r"seg\.dcm: is a segmentation of the type FRACTIONAL"):
        read_contents(tmp_path / "seg.dcm")


def test_another_grid_is_refused_or_resampled(tmp_path) -> None:
    """The image has slices between those of the segmentation: 1.5 mm instead of 3 mm."""
    write_axial(tmp_path / "ct", HEIGHTS)
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks())
    write_axial(tmp_path / "fine", [1.5 * n for n in range(-1, 12)], PixelSpacing=[0.75, 0.25])
    image = read_image(tmp_path / "fine")
    shape = image.array.shape
    with pytest.raises(
        CaseError, match=r"is not on the voxels of its image: spacing 0\.5x0\.75x1\.5 mm against"
    ):
        label_map(tmp_path / "seg.dcm", shape, image.affine, NAMES)
    found = label_map(tmp_path / "seg.dcm", shape, image.affine, NAMES, resample=True)
    coarse = (masks() @ [1, 2]).transpose(2, 1, 0)
    np.testing.assert_array_equal(found[::2, :, 1::2][:, :, :6], coarse[:3])


def test_the_reference_must_be_the_image(tmp_path) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    write_axial(tmp_path / "other", HEIGHTS, SeriesInstanceUID="1.2.3.99")
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks())
    check_reference(tmp_path / "seg.dcm", tmp_path / "ct")
    check_reference(tmp_path / "seg.dcm", tmp_path / "image.nii.gz")
    with pytest.raises(
        CaseError, match=r"refers to the series 1\.2\.3\.9, but its image .*other is of 1\.2\.3\.99"
    ):
        check_reference(tmp_path / "seg.dcm", tmp_path / "other")


def damaged(document, what: str):
    frames = document.PerFrameFunctionalGroupsSequence
    if what == "count":
        document.NumberOfFrames = 2**31 - 1
    elif what == "huge":
        document.Rows = document.Columns = 65535
    elif what == "nan":
        frames[0].PlanePositionSequence = []
    elif what == "segment":
        frames[1].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9
    elif what == "none":
        document.SegmentSequence = []
    elif what == "twice":
        document.SegmentSequence[1].SegmentLabel = "liver"
    elif what == "short":
        document.PixelData = document.PixelData[:4]
    return document


@pytest.mark.parametrize(
    ("what", "fact"),
    [
        ("count", "2147483647 frames, but positions of"),
        ("huge", "truncated: "),
        ("nan", "a frame has no position"),
        ("segment", "a frame refers to segment 9, which is not described"),
        ("none", "names no segments"),
        ("twice", "two segments are named liver"),
        ("short", "truncated: 4 bytes"),
    ],
)
def test_damage_is_one_line(tmp_path, what, fact) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks())
    damaged(pydicom.dcmread(tmp_path / "seg.dcm"), what).save_as(tmp_path / "bad.dcm")
    image = read_image(tmp_path / "ct")
    with pytest.raises(CaseError, match=rf"bad\.dcm: {fact}"):
        label_map(tmp_path / "bad.dcm", image.array.shape, image.affine, NAMES)


def test_without_pydicom_one_line_says_what_to_install(tmp_path, monkeypatch) -> None:
    write_axial(tmp_path / "ct", HEIGHTS)
    write_seg(tmp_path / "seg.dcm", tmp_path / "ct", masks())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert is_segmentation(tmp_path / "seg.dcm") and not is_segmentation(tmp_path / "ct" / "1.dcm")
    with pytest.raises(CaseError, match=r"pip install 'mambamed\[dicom\]'"):
        read_contents(tmp_path / "seg.dcm")


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_what_predict_writes_for_a_real_series_comes_back_voxel_by_voxel(tmp_path) -> None:
    image = read_image(REAL)
    labels = np.zeros(image.array.shape, np.uint8)
    labels[3:9, 5:8, 2:6], labels[10:30, 5:30, 10:20] = 1, 2
    write_segmentation(tmp_path / "case.dcm", labels, REAL, NAMES.labels, "x")
    check_reference(tmp_path / "case.dcm", REAL)
    np.testing.assert_array_equal(label_map(tmp_path / "case.dcm", labels.shape, image.affine, NAMES), labels)
    ras = affine_to_ras(image.affine, labels.shape, orientation_of(image.affine))
    assert np.linalg.det(ras[:3, :3]) > 0
