"""Cases with landmarks or a class instead of a label map: found faulty, prepared, read back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mambamed.cases import Case, ChannelFile
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.geometry import voxel_to_world, world_to_voxel
from mambamed.io.images import Image, write_image
from mambamed.preparation.prepare import prepare
from mambamed.preparation.store import PreparedDataset

# Left-posterior-superior axes, 2 x 2 x 3 mm, an origin far from zero.
AFFINE = np.array([[-2.0, 0, 0, 50], [0, -2.0, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1]])


def dataset(folder: Path, landmarks: tuple[str, ...] = (), classes: tuple[str, ...] = ()) -> RawDataset:
    """Four images 20 x 18 x 16 with zeros around the middle; points in it; classes in turn."""
    rng = np.random.default_rng(1)
    cases = []
    for number in range(4):
        image = np.zeros((20, 18, 16), np.int16)
        image[4:16, 3:15, 2:14] = rng.integers(1, 900, (12, 12, 12))
        path = folder / f"c{number}.nii.gz"
        write_image(path, image, Image(image, AFFINE))
        voxels = {name: rng.uniform(5, 13, 3) for name in landmarks}
        points = {name: tuple(voxel_to_world(AFFINE, v).tolist()) for name, v in voxels.items()}
        name = classes[number % len(classes)] if classes else None
        cases.append(Case(f"c{number}", (ChannelFile(path),), None, points or None, name))
    return RawDataset(
        DatasetManifest(name="made", channels={"t1": "mri"}, landmarks=landmarks, classes=classes), cases
    )


def with_first(raw: RawDataset, **changes: object) -> RawDataset:
    return RawDataset(raw.manifest, [dataclasses.replace(raw.cases[0], **changes), *raw.cases[1:]])


def test_landmarks_keep_their_world_position_and_find_their_voxel_of_the_prepared_grid(tmp_path) -> None:
    """The prepared voxel, by hand: the native voxel through orientation, crop and spacing."""
    raw = dataset(tmp_path, landmarks=("nose", "chin"))
    prepare(raw, tmp_path / "out", spacing="1,2,1.5", workers=1)
    for case in raw.cases:
        stored = PreparedDataset.open(tmp_path / "out").case(case.id)
        assert not stored.has_label
        assert stored.foreground.shape == (0, 4)
        assert stored.shape == (24, 12, 24)
        assert stored.points == case.points
        for name, point in case.points.items():
            x, y, z = world_to_voxel(AFFINE, point)
            # RAS+: x and y are mirrored; cropped to 4:16, 3:15, 2:14, so 19 - 15 = 4 and 17 - 14 = 3 begin.
            inside = np.array([19 - x - 4, 17 - y - 3, z - 2])
            expected = (inside + 0.5) * [2, 1, 2] - 0.5
            np.testing.assert_allclose(stored.points_voxel[name], expected, atol=1e-9)


def test_classes_are_kept_and_stand_in_the_manifest(tmp_path) -> None:
    prepare(dataset(tmp_path, classes=("NC", "AD")), tmp_path / "out", workers=1)
    opened = PreparedDataset.open(tmp_path / "out")
    assert opened.manifest.classes == ("NC", "AD")
    assert [opened.case(i).class_name for i in opened.case_ids] == ["NC", "AD", "NC", "AD"]
    assert opened.case("c0").points_voxel == {}


@pytest.mark.parametrize(
    ("points", "line"),
    [
        (None, "c0: no landmarks for this case"),
        ({"nose": (float("nan"), 0, 0)}, "c0: landmark nose has no position"),
        ({"nose": (-40.0, -20.0, 0.0)}, "c0: landmark nose at (-40, -20, 0) mm lies outside the image"),
        ({"ear": (30.0, 10.0, 0.0)}, "c0: landmark ear is not one of the dataset"),
    ],
)
def test_landmarks_that_cannot_be_are_named(tmp_path, points, line) -> None:
    raw = with_first(dataset(tmp_path, landmarks=("nose",)), points=points)
    with pytest.raises(DatasetError) as caught:
        prepare(raw, tmp_path / "out", workers=1)
    assert str(caught.value).startswith(line)


def test_a_landmark_that_cropping_would_cut_off_is_told(tmp_path) -> None:
    corner = tuple(voxel_to_world(AFFINE, (1, 1, 1)).tolist())
    raw = with_first(dataset(tmp_path, landmarks=("nose",)), points={"nose": corner})
    warning, few = prepare(raw, tmp_path / "out", workers=1).warnings
    assert warning.startswith("c0: landmark nose lies beyond what is not zero")
    assert "too few subjects for 5 folds" in few


@pytest.mark.parametrize(
    ("name", "fact"),
    [("", "has no class"), (None, "has no class"), ("MCI", "class 'MCI' is not one of the dataset")],
)
def test_a_case_without_a_known_class_is_named(tmp_path, name, fact) -> None:
    raw = with_first(dataset(tmp_path, classes=("NC", "AD")), class_name=name)
    with pytest.raises(DatasetError, match=f"c0: {fact}"):
        prepare(raw, tmp_path / "out", workers=1)


def test_one_class_alone_cannot_be_learned(tmp_path) -> None:
    raw = dataset(tmp_path, classes=("NC", "AD"))
    alike = [dataclasses.replace(case, class_name="NC") for case in raw.cases]
    with pytest.raises(DatasetError, match="all cases have class NC"):
        prepare(RawDataset(raw.manifest, alike), tmp_path / "out", workers=1, skip_faulty=True)


def test_a_case_that_its_folder_shows_to_be_unusable_is_told_and_left_out(tmp_path) -> None:
    raw = with_first(dataset(tmp_path, landmarks=("nose",)), fault="c0: t1 is missing", channels=())
    with pytest.raises(DatasetError, match="c0: t1 is missing"):
        prepare(raw, tmp_path / "out", workers=1)
    summary = prepare(raw, tmp_path / "out", workers=1, skip_faulty=True)
    assert summary.faults == ("c0: t1 is missing",)
    assert PreparedDataset.open(tmp_path / "out").case_ids == ["c1", "c2", "c3"]


def test_covariates_are_kept(tmp_path) -> None:
    raw = with_first(dataset(tmp_path, landmarks=("nose",)), covariates={"age": "71"})
    prepare(raw, tmp_path / "out", workers=1)
    prepared = PreparedDataset.open(tmp_path / "out")
    assert [prepared.case(case_id).covariates for case_id in prepared.case_ids] == [{"age": "71"}, {}, {}, {}]
