"""Sets of points are recognized; converted, they stay where they are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mambamed.converters.convert_points import convert_points
from mambamed.converters.point_sets import holds_points, read_point_set
from mambamed.documents.point_files import read_points
from mambamed.errors import CaseError, DatasetError
from mambamed.io.json_files import write_json
from mambamed.io.points import write_point_table, write_points

POINTS = {"a": (1.5, -2.0, 3.25), "b": (-4.0, 0.5, 60.0)}
AFFINE = np.array([[0, 0, 1.5, -7], [-1.0, 0, 0, 30], [0, 1.0, 0, 4], [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", ["mrk.json", "fcsv", "csv", "json"])
def test_a_file_becomes_another_and_the_points_stay(tmp_path, kind) -> None:
    write_points(tmp_path / "case.fcsv", POINTS)
    summary = convert_points(tmp_path / "case.fcsv", tmp_path / f"out.{kind}")
    assert (summary.cases, summary.points) == (("case",), 2)
    found = read_points(tmp_path / f"out.{kind}")
    for name, point in POINTS.items():
        np.testing.assert_allclose(found[name], point)


def test_a_folder_becomes_a_table_and_a_table_a_folder(tmp_path) -> None:
    cases = {"p1": POINTS, "p2": {"a": (0.0, 1.0, 2.0)}}
    for case, points in cases.items():
        write_points(tmp_path / "slicer" / f"{case}.mrk.json", points)
    convert_points(tmp_path / "slicer", tmp_path / "all.csv")
    convert_points(tmp_path / "all.csv", tmp_path / "back", to="fcsv")
    assert {path.name for path in (tmp_path / "back").glob("[!.]*")} == {"p1.fcsv", "p2.fcsv"}
    for case, points in cases.items():
        found = read_points(tmp_path / "back" / f"{case}.fcsv")
        assert {name: pytest.approx(place) for name, place in points.items()} == found
    with pytest.raises(DatasetError, match=r"expected one case, got 2 in .* Use a \.csv file"):
        convert_points(tmp_path / "slicer", tmp_path / "one.fcsv")


def test_voxels_become_mm_through_the_image(tmp_path) -> None:
    """nnLandmark counts in voxels as nibabel does, whose affine says where they are."""
    write_json(tmp_path / "case.json", {"a": [2, 3, 4]})
    with pytest.raises(CaseError, match="Give that image"):
        convert_points(tmp_path / "case.json", tmp_path / "case.fcsv")
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), AFFINE), tmp_path / "images" / "case.nii.gz")
    convert_points(tmp_path / "case.json", tmp_path / "case.fcsv", images=tmp_path / "images")
    expected = nib.affines.apply_affine(AFFINE, (2, 3, 4))
    np.testing.assert_allclose(read_points(tmp_path / "case.fcsv")["a"], expected)
    write_json(tmp_path / "other.json", {"a": [2, 3, 4]})
    with pytest.raises(CaseError, match="no image of case other"):
        convert_points(tmp_path / "other.json", tmp_path / "other.fcsv", images=tmp_path / "images")


def test_an_output_without_a_kind_is_refused(tmp_path) -> None:
    write_points(tmp_path / "case.fcsv", POINTS)
    with pytest.raises(DatasetError, match="use --to for a folder"):
        convert_points(tmp_path / "case.fcsv", tmp_path / "out")


def test_folders_of_points_are_told_from_folders_of_masks_and_tables_of_classes(tmp_path) -> None:
    write_points(tmp_path / "points" / "p1.json", POINTS)
    write_json(tmp_path / "points" / "run.json", {})
    assert holds_points(tmp_path / "points")
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "p1.nii.gz").write_bytes(b"")
    write_json(masks / "run.json", {})
    assert not holds_points(masks)
    (tmp_path / "classes.csv").write_text("case,class\np1,AD\n")
    assert not holds_points(tmp_path / "classes.csv")
    write_point_table(tmp_path / "points.csv", {"p1": POINTS})
    assert holds_points(tmp_path / "points.csv")
    assert not holds_points(tmp_path / "nowhere")


def test_the_document_of_a_case_goes_before_its_exports_and_tables(tmp_path) -> None:
    write_points(tmp_path / "p1.json", {"a": (1.0, 1.0, 1.0)})
    write_points(tmp_path / "p1.fcsv", {"a": (2.0, 2.0, 2.0)})
    write_point_table(tmp_path / "landmarks.csv", {"p1": {"a": (3.0, 3.0, 3.0)}})
    assert read_point_set(tmp_path).points == {"p1": {"a": (1.0, 1.0, 1.0)}}


def test_a_bad_file_is_a_fault_of_its_case(tmp_path) -> None:
    write_points(tmp_path / "p1.fcsv", POINTS)
    write_json(tmp_path / "p2.json", {"a": [1, 2, 3]})  # voxels of an image that is not known
    found = read_point_set(tmp_path)
    assert set(found.points) == {"p1"}
    assert set(found.faults) == {"p2"}
