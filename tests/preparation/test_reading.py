"""Channels and labels on other grids than their first channel: refused, reoriented, resampled."""

import dataclasses

import numpy as np
import pytest

from mambamed.cases import Case, ChannelFile
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import affine_to_ras, orientation_of, to_ras, voxel_to_world
from mambamed.io.images import Image, write_image
from mambamed.preparation.prepare import prepare
from mambamed.preparation.reading import read_channels, read_label
from mambamed.preparation.store import PreparedDataset

GRID = np.array([[1.0, 0, 0, -7], [0, 1.0, 0, 3], [0, 0, 2.0, 5], [0, 0, 0, 1]])
SHAPE = (16, 14, 12)


def ramp(affine, shape) -> np.ndarray:
    """A linear function of the world, which linear interpolation keeps."""
    x, y, z = np.moveaxis(voxel_to_world(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    return (100 + 3 * x - 2 * y + 0.5 * z).astype(np.float32)


def in_lps(array) -> Image:
    """The same voxels stored with x and y mirrored, the header along with them."""
    turn = np.diag([-1.0, -1, 1, 1])
    turn[0, 3], turn[1, 3] = array.shape[0] - 1, array.shape[1] - 1
    return Image(np.ascontiguousarray(array[::-1, ::-1]), GRID @ turn)


def case_with(folder, second: Image, label: Image | None = None) -> Case:
    first = Image(ramp(GRID, SHAPE), GRID)
    for name, image in (("a", first), ("b", second), ("label", label)):
        if image is not None:
            write_image(folder / f"{name}.nii.gz", image.array, image)
    channels = (ChannelFile(folder / "a.nii.gz"), ChannelFile(folder / "b.nii.gz"))
    return Case("c0", channels, folder / "label.nii.gz" if label else None)


def test_a_channel_in_another_order_of_axes_is_reoriented_only_when_told(tmp_path) -> None:
    case = case_with(tmp_path, in_lps(ramp(GRID, SHAPE)))
    with pytest.raises(CaseError, match=r"b\.nii\.gz: not on the grid.*--fix-geometry reorient"):
        read_channels(case, "none")
    notes: list[str] = []
    first, second = read_channels(case, "reorient", notes.append)
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_array_equal(first.affine, second.affine)
    assert "axes were brought into the order" in notes[0]


def test_a_channel_on_another_grid_is_resampled_in_the_world_only_when_told(tmp_path) -> None:
    """A rotated grid of another spacing around the same place: a ramp comes back but for the border."""
    angle = np.radians(12)
    turned = np.eye(4)
    turned[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other = turned @ np.array([[0.7, 0, 0, -12], [0, 0.8, 0, -3], [0, 0, 1.5, 2], [0, 0, 0, 1.0]])
    case = case_with(tmp_path, Image(ramp(other, (40, 36, 24)), other))
    for fix in ("none", "reorient"):
        with pytest.raises(CaseError, match="--fix-geometry resample"):
            read_channels(case, fix)
    _, second = read_channels(case, "resample")
    expected = ramp(GRID, SHAPE)
    inside = second.array > second.array.min() + 1e-3
    assert inside.mean() > 0.7
    # A voxel beside the border mixes with what lies beyond it.
    wrong = np.abs(second.array - expected)[inside] > 1e-2
    assert wrong.mean() < 0.15
    center = tuple(slice(n // 4, -n // 4) for n in SHAPE)
    np.testing.assert_allclose(second.array[center], expected[center], atol=1e-3)


def test_a_label_of_another_grid_keeps_its_values_and_its_place(tmp_path) -> None:
    fine = GRID @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = voxel_to_world(GRID, (-0.25, -0.25, -0.25))
    label = np.zeros(tuple(2 * n for n in SHAPE), np.uint8)
    label[8:16, 8:14, 8:12], label[16:20, 8:14, 8:12] = 3, 7
    case = case_with(tmp_path, Image(ramp(GRID, SHAPE), GRID), Image(label, fine))
    first, _ = read_channels(case, "none")
    with pytest.raises(CaseError, match=r"label\.nii\.gz: not on the grid of its image: shape"):
        read_label(case, first, "none")
    found = read_label(case, first, "resample")
    assert found is not None
    expected = np.zeros(SHAPE, np.uint8)
    expected[4:8, 4:7, 4:6], expected[8:10, 4:7, 4:6] = 3, 7
    np.testing.assert_array_equal(found.array, expected)


def test_a_label_elsewhere_in_the_world_is_refused_even_then(tmp_path) -> None:
    far = GRID.copy()
    far[0, 3] += 500
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 4:8, 4:8] = 1
    case = case_with(tmp_path, Image(ramp(GRID, SHAPE), GRID), Image(label, far))
    with pytest.raises(CaseError, match="its foreground lies outside the image"):
        read_label(case, read_channels(case, "none")[0], "resample")


def test_prepare_mends_what_it_is_told_to_and_says_so(tmp_path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 4:9, 4:8] = 1
    case = case_with(tmp_path, in_lps(ramp(GRID, SHAPE)), in_lps(label))
    others = [dataclasses.replace(case, id=f"c{n}", subject=f"c{n}") for n in range(1, 3)]
    manifest = DatasetManifest(
        name="made", channels={"a": "mri", "b": "mri"}, labels={"background": 0, "x": 1}
    )
    raw = RawDataset(manifest, [case, *others])
    with pytest.raises(DatasetError, match="--fix-geometry reorient"):
        prepare(raw, tmp_path / "out", workers=1)
    summary = prepare(raw, tmp_path / "out", workers=1, fix_geometry="reorient")
    assert any("b.nii.gz: its axes were brought" in line for line in summary.warnings)
    stored = PreparedDataset.open(tmp_path / "out").case("c0")
    np.testing.assert_array_equal(stored.image()[0], stored.image()[1])
    # The world decides: the label's voxels lie where its file says, in RAS+ order.
    own = in_lps(label)
    turned = to_ras(own.array, orientation_of(own.affine))
    assert np.allclose(affine_to_ras(own.affine, SHAPE, orientation_of(own.affine)), GRID)
    np.testing.assert_array_equal(stored.label(), turned)
