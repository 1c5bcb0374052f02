"""Segmentations of 3D Slicer: written by pynrrd in the form of Slicer and read here; written here and read by
slicerio (the library of Slicer's developers) and SimpleITK."""

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import slicerio

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.io.images import read_image
from mambamed.io.seg_nrrd import write_seg_nrrd
from mambamed.io.segments import label_map, own_grid, read_contents

# Image: x to the left, y to the front, 2 x 1 x 3 mm, in LPS; LPS -> RAS flips the first two rows.
LPS = np.array([[2.0, 0, 0, -10], [0, -1.0, 0, 20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0]) @ LPS
SHAPE = (8, 9, 6)
NAMES = SegmentNames({"background": 0, "liver": 1, "tumor": 2})


def moved_by(left_mm: float) -> np.ndarray:
    moved = LPS.copy()
    moved[0, 3] += left_mm
    return moved


def write_slicer(path, layers, segments, start=(0, 0, 0), lps=LPS, four=None, **header) -> None:
    """As Slicer writes it: cropped to a box from voxel `start`; name -> (layer, value)."""
    layers = np.asarray(layers)
    directions = [*lps[:3, :3].T]
    whole = layers if four or len(layers) > 1 else layers[0]
    if whole.ndim == 4:
        directions = [np.full(3, np.nan), *directions]
    facts = {
        "space": "left-posterior-superior",
        "kinds": (["list"] if whole.ndim == 4 else []) + ["domain"] * 3,
        "space directions": np.array(directions),
        "space origin": lps[:3, :3] @ start + lps[:3, 3],
        "encoding": "gzip",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, start)),
    }
    for number, (name, (layer, value)) in enumerate(segments.items()):
        facts |= {f"Segment{number}_Name": name, f"Segment{number}_ID": f"S{number}"}
        facts |= {f"Segment{number}_LabelValue": str(value), f"Segment{number}_Layer": str(layer)}
    nrrd.write(str(path), whole, {**facts, **header})


def test_a_cropped_file_is_placed_by_its_origin_and_mapped_by_name(tmp_path) -> None:
    layer = np.zeros((3, 4, 2), np.uint8)
    layer[0], layer[2, 1:3] = 7, 3
    write_slicer(tmp_path / "a.seg.nrrd", [layer], {"tumor": (0, 7), "liver": (0, 3)}, start=(4, 2, 3))
    found = label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES)
    expected = np.zeros(SHAPE, np.uint8)
    expected[4, 2:6, 3:5], expected[6, 3:5, 3:5] = 2, 1
    np.testing.assert_array_equal(found, expected)
    # SimpleITK places the same file in the world in the same way.
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    place = image.TransformIndexToPhysicalPoint((2, 1, 0))
    np.testing.assert_allclose(place, LPS[:3] @ [6, 3, 3, 1])
    shape, affine = own_grid(tmp_path / "a.seg.nrrd")
    assert shape == (3, 4, 2)
    np.testing.assert_allclose(affine[:3, 3], (AFFINE @ [4, 2, 3, 1])[:3])


def test_other_axes_on_the_same_lattice_are_turned(tmp_path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2:4, 3] = 1
    turned = labels.transpose(2, 0, 1)[::-1]  # axis 0: z from the top
    lps = np.array([[0, 2.0, 0, -10], [0, 0, -1.0, 20], [-3.0, 0, 0, 5 + 3 * 5], [0, 0, 0, 1]])
    write_slicer(tmp_path / "a.seg.nrrd", [turned], {"liver": (0, 1)}, lps=lps)
    np.testing.assert_array_equal(label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES), labels)


def test_layers_may_overlap_where_regions_do(tmp_path) -> None:
    whole, core = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    whole[1:6, 1:6, 1:4], core[2:4, 2:4, 2] = 1, 1
    write_slicer(tmp_path / "a.seg.nrrd", [whole, core], {"whole": (0, 1), "core": (1, 1)})
    assert read_contents(tmp_path / "a.seg.nrrd").may_overlap
    names = SegmentNames({"background": 0, "rim": 1, "core": 2}, {"whole": (1, 2), "core": (2,)})
    found = label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, names)
    np.testing.assert_array_equal(found, whole + core)
    alone = SegmentNames({"background": 0, "whole": 1, "core": 2})
    with pytest.raises(CaseError, match="layers overlap: 4 voxels are in core and whole, and no label"):
        label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, alone)
    with pytest.raises(CaseError, match="is a segmentation, not an image"):
        read_image(tmp_path / "a.seg.nrrd")


def test_versions_before_layers_have_one_layer_per_segment(tmp_path) -> None:
    one, two = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[1], two[2] = 1, 1
    facts = {"Segment0_Name": "liver", "Segment1_Name": "tumor"}
    write_slicer(tmp_path / "a.seg.nrrd", [one, two], {}, **facts)
    np.testing.assert_array_equal(label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES), one + 2 * two)


def test_a_backslash_in_a_name_comes_back(tmp_path) -> None:
    write_seg_nrrd(tmp_path / "a.seg.nrrd", _labels(), AFFINE, {"a\\nb": (1,)}, [(1, 0, 0)])
    assert list(read_contents(tmp_path / "a.seg.nrrd").values) == ["a\\nb"]


@pytest.mark.parametrize(
    ("segments", "value", "fact"),
    [
        ({}, 1, "names no segments"),
        (
            {"liver": (0, 1), "Tumour": (0, 2)},
            1,
            r"segment Tumour is not a label of the dataset \(liver, tumor\)",
        ),
        ({"liver": (0, 1), "tumor": (0, 1)}, 1, "segments liver and tumor both have value 1 in layer 0"),
        ({"liver": (0, 1)}, 5, "value 5 in layer 0 has no segment"),
        ({"liver": (3, 1)}, 1, "segment 0: name 'liver', layer 3 of 1, value 1 cannot be"),
        ({"liver": (0, "1e3")}, 1, "segment 0: name 'liver', layer 0 of 1, value -1 cannot be"),
    ],
)
def test_what_a_header_cannot_say_is_one_line(tmp_path, segments, value, fact) -> None:
    write_slicer(tmp_path / "a.seg.nrrd", [np.full((2, 2, 2), value, np.uint8)], segments)
    with pytest.raises(CaseError, match=rf"a\.seg\.nrrd: {fact}"):
        label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES)


@pytest.mark.parametrize(
    ("moved", "start", "fact"),
    [
        (moved_by(0.8), (0, 0, 0), "origin off by 0.4x0x0 voxels"),
        (LPS @ np.diag([0.5, 1, 1, 1]), (0, 0, 0), "spacing 1x1x3 mm against 2x1x3 mm"),
        (
            LPS,
            (6, 0, 0),
            r"segment liver reaches out of the image: its voxels go from \(6, 0, 0\) to \(8, 2, 2\)",
        ),
    ],
)
def test_a_file_of_another_image_is_refused(tmp_path, moved, start, fact) -> None:
    layer = np.ones((3, 3, 3), np.uint8)
    write_slicer(tmp_path / "a.seg.nrrd", [layer], {"liver": (0, 1)}, start, moved)
    with pytest.raises(CaseError, match=fact):
        label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES)


def test_another_lattice_is_resampled_if_asked(tmp_path) -> None:
    layer = np.zeros((16, 9, 6), np.uint8)
    layer[4:8, 1:3, 2] = 1
    lps = LPS @ np.diag([0.5, 1, 1, 1])
    lps[0, 3] -= 0.5  # the same box of the world: voxels of 1 mm begin half a millimeter before
    write_slicer(tmp_path / "a.seg.nrrd", [layer], {"liver": (0, 1)}, lps=lps)
    found = label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, NAMES, resample=True)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:4, 1:3, 2] = 1
    np.testing.assert_array_equal(found, expected)


def _labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3], labels[2, 3, 1:4], labels[6, 7, 4] = 1, 3, 300 % 256
    return labels


def test_slicerio_reads_names_values_and_colors(tmp_path) -> None:
    colors = [(1.0, 0, 0), (0, 0.5, 0.25)]
    labels = _labels()
    labels[labels == 44] = 3
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels, AFFINE, {"liver": (1,), "tumor (new)": (3,)}, colors)
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    facts = [(s["name"], s["labelValue"], tuple(s["color"])) for s in read["segments"]]
    assert facts == [("liver", 1, colors[0]), ("tumor (new)", 3, colors[1])]
    np.testing.assert_array_equal(read["voxels"], labels)
    np.testing.assert_allclose(read["ijkToLPS"], LPS)
    names = SegmentNames({"background": 0, "liver": 1, "tumor (new)": 2})
    found = label_map(tmp_path / "a.seg.nrrd", SHAPE, AFFINE, names)
    np.testing.assert_array_equal(found, np.where(labels == 3, 2, labels))


def test_overlapping_regions_are_layers(tmp_path) -> None:
    """BraTS: ET is in TC, and TC in WT; necrosis 1, edema 2, enhancing 3."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[1:7, 1:7, 1:5], labels[2:5, 2:5, 2:4], labels[3, 3, 2] = 2, 1, 3
    regions = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels, AFFINE, regions, [(1, 0, 0)] * 3)
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    assert [s["layer"] for s in read["segments"]] == [0, 1, 2]
    for segment, members in zip(read["segments"], regions.values(), strict=True):
        mask = read["voxels"][segment["layer"]] == segment["labelValue"]
        np.testing.assert_array_equal(mask, np.isin(labels, members))
    back = label_map(
        tmp_path / "a.seg.nrrd",
        SHAPE,
        AFFINE,
        SegmentNames({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, regions),
    )
    np.testing.assert_array_equal(back, labels)
    data, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    assert header["kinds"] == ["list", "domain", "domain", "domain"] and data.shape == (3, *SHAPE)
