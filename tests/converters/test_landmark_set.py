"""Positions by hand: the small images' affine turns x and y, doubles them, and triples z."""

import json
from pathlib import Path

import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from mambamed.geometry import world_to_voxel
from mambamed.io.images import read_header
from mambamed.io.points import write_point_table, write_points
from tests.converters.small_images import LPS, write_small
from tests.real_data import DATA

MICE = DATA / "mouse_skull_landmarks"
NOSE = {"nose": (4.0, 12.0, -21.0)}  # voxel (3, 4, 3)


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv", ".json"])
def test_a_point_file_a_case_is_recognized(tmp_path, suffix) -> None:
    for case in ("a", "b"):
        write_small(tmp_path / "images" / f"{case}.nii.gz")
    (tmp_path / "landmarks").mkdir()
    write_points(tmp_path / "landmarks" / f"a{suffix}", NOSE)
    with_points, without = convert(tmp_path).cases
    assert with_points.points == NOSE
    assert (without.fault or "").startswith("b: no landmarks for this case")
    write_points(tmp_path / "landmarks" / f"GHOST{suffix}", NOSE)
    assert (convert(tmp_path).cases[0].fault or "").startswith("GHOST: 0 of 1 images")


def test_points_may_lie_beside_their_images(tmp_path) -> None:
    write_small(tmp_path / "a.nii.gz")
    write_points(tmp_path / "a.mrk.json", NOSE)
    dataset = convert(tmp_path)
    assert dataset.cases[0].points == NOSE
    assert dataset.manifest.landmarks == ("nose",)
    write_points(tmp_path / "a.fcsv", NOSE)
    with pytest.raises(DatasetError, match=r"duplicate case a: a\.fcsv and a\.mrk\.json"):
        convert(tmp_path)


def test_one_table_may_hold_the_points_of_all(tmp_path) -> None:
    for case in ("a", "b"):
        write_small(tmp_path / "images" / f"{case}.nii.gz")
    write_point_table(tmp_path / "points.csv", {"a": NOSE, "b": {"chin": (1.0, 2.0, 3.0)}})
    dataset = convert(tmp_path)
    assert [case.points for case in dataset.cases] == [NOSE, {"chin": (1.0, 2.0, 3.0)}]
    assert dataset.manifest.landmarks == ("nose", "chin")


def test_the_tenth_channel_comes_behind_the_ninth(tmp_path) -> None:
    for number in range(11):
        write_small(tmp_path / "imagesTr" / f"a_{number:04d}.nii.gz")
    (tmp_path / "landmarks").mkdir()
    write_points(tmp_path / "landmarks" / "a.fcsv", NOSE)
    names = {str(number): f"echo {number}" for number in range(11)}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": names}))
    assert list(convert(tmp_path, "landmarks").manifest.channels) == list(names.values())


def nnlandmark(folder: Path) -> None:
    """As the readme of nnLandmark has it: train and test in one document, voxels, nibabel's order."""
    write_small(folder / "imagesTr" / "c1_0000.nii.gz")
    write_small(folder / "imagesTs" / "c9_0000.nii.gz")
    write_small(folder / "labelsTr" / "c1.nii.gz", value=1)
    (folder / "dataset.json").write_text(
        json.dumps(
            {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "landmark_2": 1, "landmark_1": 2}}
        )
    )
    (folder / "name_to_label.json").write_text('{"landmark_2": 1, "landmark_1": 2}')
    points = {"landmark_1": [3, 4, 3], "landmark_2": [0, 0, 0]}
    (folder / "all_landmarks_voxel.json").write_text(json.dumps({"c1": points, "c9": points}))


def test_nnlandmarks_voxels_become_world_positions(tmp_path) -> None:
    nnlandmark(tmp_path)
    dataset = convert(tmp_path)
    (case,) = dataset.cases
    assert case.points == {"landmark_1": NOSE["nose"], "landmark_2": (10.0, 20.0, -30.0)}
    assert case.label is None
    assert dataset.manifest.landmarks == ("landmark_2", "landmark_1")
    assert dataset.manifest.channels == {"MRI": "mri"}
    assert world_to_voxel(LPS, NOSE["nose"]).tolist() == [3, 4, 3]


def test_the_same_folder_is_a_segmentation_for_who_insists(tmp_path) -> None:
    nnlandmark(tmp_path)
    assert convert(tmp_path, "nnunet").manifest.labels == {"background": 0, "landmark_2": 1, "landmark_1": 2}


def test_a_point_that_is_none_is_its_cases_fault(tmp_path) -> None:
    for case in ("a", "b"):
        write_small(tmp_path / "images" / f"{case}.nii.gz")
    (tmp_path / "landmarks").mkdir()
    (tmp_path / "landmarks" / "a.csv").write_text("landmark;x;y;z\nnose;1,5;2;3\n")
    write_points(tmp_path / "landmarks" / "b.csv", NOSE)
    faulty, good = convert(tmp_path).cases
    assert "a.csv: landmark nose: expected three numbers, got (1,5, 2, 3)." in (faulty.fault or "")
    assert good.points == NOSE


@pytest.mark.skipif(not MICE.is_dir(), reason=f"no {MICE}")
def test_the_mouse_skulls_lie_inside_their_images() -> None:
    """LPS taken for RAS would put them outside: the atlas' images and points are its authors'."""
    dataset = convert(MICE)
    assert len(dataset.manifest.landmarks) == 45
    good = [case for case in dataset.cases if not case.fault]
    assert len(good) >= 20
    for case in good[:3]:
        header = read_header(case.channels[0].path)
        for point in (case.points or {}).values():
            voxel = world_to_voxel(header.affine, point)
            assert ((voxel > -0.5) & (voxel < [n - 0.5 for n in header.shape])).all()


def test_the_recipe_does_not_rename_a_channel_that_the_dataset_names(tmp_path) -> None:
    write_small(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "landmarks").mkdir()
    write_points(tmp_path / "landmarks" / "a.fcsv", NOSE)
    for said, name in (("MR", "T2w"), ("FLAIR", "FLAIR")):
        (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": said}}))
        manifest = convert(tmp_path, "landmarks", channels={"T2w": "mri"}).manifest
        assert manifest.channels == {name: "mri"}


def test_one_landmark_in_two_spellings_is_refused_unless_a_case_has_both(tmp_path) -> None:
    """In cephalometry N is a point of the bone and n one of the skin."""
    for case in ("a", "b"):
        write_small(tmp_path / "images" / f"{case}.nii.gz")
    places = (4.0, 12.0, -21.0), (5.0, 12.0, -21.0)
    write_point_table(tmp_path / "points.csv", {"a": {"Left_Eye": places[0]}, "b": {"left eye": places[0]}})
    with pytest.raises(DatasetError, match=r"spelled differently: Left_Eye \(a\) \| left eye \(b\)"):
        convert(tmp_path)
    both = {"a": dict(zip("Nn", places, strict=True)), "b": {"n": places[0]}}
    write_point_table(tmp_path / "points.csv", both)
    assert convert(tmp_path).manifest.landmarks == ("N", "n")
