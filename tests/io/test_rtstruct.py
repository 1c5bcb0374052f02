"""RT Structure Sets: contours of a hollow ball by hand, axial and oblique; what is written comes back,
by this reader and by a point-in-polygon test of matplotlib in the planes of the slices."""

import sys

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.geometry import voxel_to_world
from mambamed.io.images import read_image
from mambamed.io.rtstruct import write_rtstruct
from mambamed.io.segments import check_reference, is_segmentation, label_map, own_grid, read_contents
from tests.io.pydicom_series import some_voxels, write_slice
from tests.real_data import DATA

REAL = DATA / "dicom" / "hippocampus_crop"
NAMES = SegmentNames({"background": 0, "one": 1, "two": 2})
TWO = {"one": (1,), "two": (2,)}
COLORS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
SHAPE = (22, 18)  # rows, columns
AXIAL = np.eye(3)
TURN = np.deg2rad(25)
OBLIQUE = np.array([[np.cos(TURN), 0.2, np.sin(TURN)], [-0.3, 1, 0.1], [0, 0, 1]])
OBLIQUE = np.linalg.qr(OBLIQUE.T)[0].T
OBLIQUE[2] = np.cross(OBLIQUE[0], OBLIQUE[1])


def write_ct(folder, axes=AXIAL, slices: int = 9, **tags) -> None:
    """Slices 2.5 mm apart along the normal, rows 0.75 mm and columns 0.5 mm apart."""
    for number, plane in enumerate(some_voxels(slices, shape=SHAPE)):
        place = np.array([10.0, -20.0, 30.0]) + 2.5 * number * axes[2]
        facts = {"ImageOrientationPatient": [f"{v:.9f}" for v in axes[:2].ravel()], **tags}
        facts["ImagePositionPatient"] = [f"{v:.6f}" for v in place]
        write_slice(folder / f"{number}.dcm", 0, plane, **facts)


def blobs(shape, seed: int = 0) -> np.ndarray:
    """Two labels with holes, islands and corners that touch."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    inside = (x - 8) ** 2 + (y - 10) ** 2 + 4 * (z - 4) ** 2 < 60
    labels[inside] = 1
    labels[inside & (random.random(shape) < 0.2)] = 0
    labels[inside & (random.random(shape) < 0.3)] = 2
    return labels


def in_world(image, corners) -> list[str]:
    """Voxel indices as contour data, mm, LPS."""
    return [f"{v:.4f}" for v in (voxel_to_world(image.affine, corners) * [-1, -1, 1]).ravel()]


def with_contours(path, image, contours, kind="CLOSED_PLANAR") -> None:
    """These contours, in voxel indices, for the structure "one" of a file, and none for "two"."""
    document = pydicom.dcmread(path)
    items = []
    for corners in contours:
        item = pydicom.Dataset()
        item.ContourGeometricType, item.NumberOfContourPoints = kind, len(corners)
        item.ContourData = in_world(image, np.asarray(corners, float))
        items.append(item)
    document.ROIContourSequence[0].ContourSequence = items
    del document.ROIContourSequence[1].ContourSequence
    document.save_as(path)


def circle(x: float, y: float, z: float, radius_mm: float, corners: int = 400) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack(
        [x + radius_mm / 0.5 * np.cos(angle), y + radius_mm / 0.75 * np.sin(angle), np.full(corners, z)],
        axis=1,
    )


@pytest.fixture(params=[AXIAL, OBLIQUE], ids=["axial", "oblique"])
def series(request, tmp_path):
    write_ct(tmp_path / "ct", request.param)
    image = read_image(tmp_path / "ct")
    write_rtstruct(tmp_path / "rs.dcm", blobs(image.array.shape), tmp_path / "ct", TWO, COLORS, "x")
    return tmp_path, image


def test_what_is_written_comes_back_voxel_by_voxel(series) -> None:
    folder, image = series
    labels = blobs(image.array.shape)
    assert np.count_nonzero(labels == 1) > 50 and np.count_nonzero(labels == 2) > 50
    found = label_map(folder / "rs.dcm", labels.shape, image.affine, NAMES)
    np.testing.assert_array_equal(found, labels)
    assert own_grid(folder / "rs.dcm") is None
    check_reference(folder / "rs.dcm", folder / "ct")


def test_matplotlib_finds_the_same_voxels_in_the_planes(series) -> None:
    """Each contour refers to its slice, whose own header gives the plane; even-odd over the contours."""
    folder, image = series
    document = pydicom.dcmread(folder / "rs.dcm")
    slices = {s.SOPInstanceUID: s for s in map(pydicom.dcmread, (folder / "ct").iterdir())}
    heights = sorted(slices, key=lambda uid: _height(slices[uid]))
    labels = blobs(image.array.shape)
    for value, structure in enumerate(document.ROIContourSequence, 1):
        counts = np.zeros(labels.shape, int)
        for contour in structure.ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            header = slices[uid]
            along = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
            points = np.array(contour.ContourData, float).reshape(-1, 3) - header.ImagePositionPatient
            assert np.abs(points @ np.cross(*along)).max() < 1e-3
            flat = points @ along.T / [0.5, 0.75]
            centers = np.stack(np.meshgrid(*map(np.arange, labels.shape[:2]), indexing="ij"), -1).reshape(
                -1, 2
            )
            inside = Outline(np.vstack([flat, flat[:1]]), closed=True).contains_points(centers)
            counts[:, :, heights.index(uid)] += inside.reshape(labels.shape[:2])
        np.testing.assert_array_equal(counts % 2 == 1, labels == value)


def _height(header) -> float:
    along = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.array(header.ImagePositionPatient, float) @ np.cross(*along))


def test_a_ball_and_its_hole_by_hand(series) -> None:
    """Circles of a ball of 4 mm in every slice, and of a hollow of 2 mm inside: centers by their distance."""
    folder, image = series
    contours = []
    for z in range(9):
        for radius in (4.0, 2.0):
            height = 2.5 * (z - 4)
            if abs(height) < radius:
                contours.append(circle(8.1, 10.2, z, np.sqrt(radius**2 - height**2)))
    with_contours(folder / "rs.dcm", image, contours)
    x, y, z = np.meshgrid(*map(np.arange, image.array.shape), indexing="ij")
    distance = np.sqrt(((x - 8.1) * 0.5) ** 2 + ((y - 10.2) * 0.75) ** 2 + ((z - 4) * 2.5) ** 2)
    found = label_map(folder / "rs.dcm", image.array.shape, image.affine, NAMES) == 1
    near = np.abs(distance - 4) < 0.003  # 400 corners of a circle of 4 mm are 0.0001 mm within it
    np.testing.assert_array_equal(found | near, ((distance < 4) & (distance > 2)) | near)
    assert near.sum() == 0 and found.sum() > 100


def test_the_references_are_those_of_the_series(series) -> None:
    folder, _ = series
    document = pydicom.dcmread(folder / "rs.dcm")
    one = pydicom.dcmread(folder / "ct" / "0.dcm")
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert document.get(keyword) == one.get(keyword)
    assert document.SeriesInstanceUID != one.SeriesInstanceUID and document.Modality == "RTSTRUCT"
    (frame,) = document.ReferencedFrameOfReferenceSequence
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == one.FrameOfReferenceUID
    assert referenced.SeriesInstanceUID == one.SeriesInstanceUID and len(referenced.ContourImageSequence) == 9
    assert [s.ROIName for s in document.StructureSetROISequence] == ["one", "two"]
    assert is_segmentation(folder / "rs.dcm")


def test_a_series_without_a_frame_of_reference_is_one_line(tmp_path) -> None:
    write_ct(tmp_path / "ct", FrameOfReferenceUID=None)
    with pytest.raises(CaseError, match="has no FrameOfReferenceUID, which a structure set requires"):
        write_rtstruct(tmp_path / "rs.dcm", np.zeros((18, 22, 9), np.uint8), tmp_path / "ct", TWO, COLORS, "")


def test_segments_in_common_are_regions(series) -> None:
    folder, image = series
    labels = blobs(image.array.shape)
    regions = {"whole": (1, 2), "two": (2,)}
    write_rtstruct(folder / "r.dcm", labels, folder / "ct", regions, COLORS, "x")
    names = SegmentNames({"background": 0, "rest": 1, "two": 2}, regions)
    np.testing.assert_array_equal(label_map(folder / "r.dcm", labels.shape, image.affine, names), labels)


SQUARE = np.array([[2, 2], [6, 2], [6, 6], [2, 6.0]]) + 0.4


@pytest.mark.parametrize(
    ("contour", "fact"),
    [
        (
            np.column_stack([SQUARE, [3.4] * 4]),
            "is between slices of the image, 0.4 of a slice from the nearest",
        ),
        (np.column_stack([SQUARE, [3, 3, 4, 4]]), "is not in a slice of the image: it reaches over 1 slices"),
        (np.column_stack([SQUARE, [40] * 4]), "lies outside the image"),
        (np.column_stack([SQUARE - 30, [3] * 4]), "lies outside the image"),
    ],
)
def test_contours_of_another_image_are_one_line(series, contour, fact) -> None:
    folder, image = series
    with_contours(folder / "rs.dcm", image, [contour])
    with pytest.raises(CaseError, match=rf"rs\.dcm: a contour of one {fact}"):
        label_map(folder / "rs.dcm", image.array.shape, image.affine, NAMES)


def test_a_contour_a_little_off_counts_as_in_its_slice(series) -> None:
    folder, image = series
    with_contours(folder / "rs.dcm", image, [np.column_stack([SQUARE, [3.09] * 4])])
    found = label_map(folder / "rs.dcm", image.array.shape, image.affine, NAMES) == 1
    expected = np.zeros(image.array.shape, bool)
    expected[3:7, 3:7, 3] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("slices", "left_out"), [((1, 2, 3), 0), ((1, 3, 5), 2), ((0, 5), 4), ((0, 1, 7, 8), 0)]
)
def test_slices_without_a_contour_are_reported(series, slices, left_out, caplog) -> None:
    """Every second slice drawn is a gap of one; islands six slices apart are separate."""
    folder, image = series
    contours = [np.column_stack([SQUARE, [float(z)] * 4]) for z in slices]
    with_contours(folder / "rs.dcm", image, contours)
    label_map(folder / "rs.dcm", image.array.shape, image.affine, NAMES)
    expected = f"one has no contour in {left_out} slices between slices with contours"
    assert (expected in caplog.text) == bool(left_out) == ("no contour" in caplog.text)


def edited(path, what: str) -> None:
    document = pydicom.dcmread(path)
    first = document.ROIContourSequence[0]
    if what == "nan":
        first.ContourSequence[0].ContourData[0] = float("nan")
    elif what == "count":
        first.ContourSequence[0].ContourData = first.ContourSequence[0].ContourData[:-1]
    elif what == "far":
        first.ContourSequence[0].ContourData[0] = 1e12
    elif what == "unknown":
        first.ReferencedROINumber = 77
    elif what == "points":
        for each in document.ROIContourSequence:
            for contour in each.ContourSequence:
                contour.ContourGeometricType = "POINT"
    elif what == "mixed":
        first.ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    elif what == "nothing":
        del document.ROIContourSequence
    elif what == "twice":
        document.StructureSetROISequence[1].ROIName = "one"
    document.save_as(path)


@pytest.mark.parametrize(
    ("what", "fact"),
    [
        ("nan", "a contour of one is no list of points with three finite coordinates"),
        ("count", "a contour of one is no list of points"),
        ("far", "a contour of one lies outside the image"),
        ("unknown", "contours of a structure that is not described"),
        ("points", "has no structure with closed contours"),
        ("mixed", r"one has closed contours and others \(OPEN_PLANAR\)"),
        ("nothing", "has no structure with closed contours"),
        ("twice", "two segments are named one"),
    ],
)
def test_damage_is_one_line(series, what, fact) -> None:
    folder, image = series
    edited(folder / "rs.dcm", what)
    with pytest.raises(CaseError, match=rf"rs\.dcm: {fact}"):
        label_map(folder / "rs.dcm", image.array.shape, image.affine, NAMES)


def test_points_are_ignored_and_an_empty_structure_is_absent(series) -> None:
    folder, _ = series
    document = pydicom.dcmread(folder / "rs.dcm")
    for contour in document.ROIContourSequence[1].ContourSequence:
        contour.ContourGeometricType = "POINT"
    document.save_as(folder / "rs.dcm")
    contents = read_contents(folder / "rs.dcm")
    assert list(contents.values) == ["one"] and contents.ignored == ("two",)
    del document.ROIContourSequence[1].ContourSequence
    document.save_as(folder / "rs.dcm")
    contents = read_contents(folder / "rs.dcm")
    assert list(contents.values) == ["one"] and contents.ignored == ()


def test_without_pydicom_one_line_says_what_to_install(series, monkeypatch) -> None:
    folder, _ = series
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(CaseError, match=r"pip install 'mambamed\[dicom\]'"):
        read_contents(folder / "rs.dcm")


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_a_real_series_comes_back_voxel_by_voxel(tmp_path) -> None:
    image = read_image(REAL)
    labels = blobs(image.array.shape)
    write_rtstruct(tmp_path / "rs.dcm", labels, REAL, TWO, COLORS, "x")
    check_reference(tmp_path / "rs.dcm", REAL)
    np.testing.assert_array_equal(label_map(tmp_path / "rs.dcm", labels.shape, image.affine, NAMES), labels)
