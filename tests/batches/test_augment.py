"""Variation of patches: image and label move together; intensities as the formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from mambamed.batches.augment import (
    Spatial,
    add_noise,
    apply_spatial,
    as_float32,
    blur,
    change_contrast,
    change_gamma,
    change_intensities,
    lower_resolution,
    random_spatial,
    rotation,
    source_box,
    two_sided,
)
from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest
from mambamed.recipe import Augment
from mambamed.tasks.cases import LabeledCase
from tests.batches.memory_case import MemoryCase

STILL = Augment(rotate=0, scale=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0)
ALWAYS_MOVED = STILL.model_copy(update={"rotate": 1.0, "scale": 1.0})


def center_of_mass(volume: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.center_of_mass(volume.astype(float)))


def test_a_bright_dot_and_its_label_stay_together_to_a_fifth_of_a_voxel():
    grid = np.indices((48, 48, 48)).reshape(3, -1).T.reshape(48, 48, 48, 3)
    distance = np.linalg.norm(grid - np.array([25.0, 21.0, 27.0]), axis=-1)
    image = np.clip(4 - distance, 0, 1)[None].astype(np.float32)  # a ball of radius 3.5 with a soft rim
    case = MemoryCase(image, (distance < 3.5).astype(np.uint8))
    reader = PatchReader({"c": LabeledCase(case)}, (40, 40, 40), ALWAYS_MOVED, (1.0, 1.0, 1.0))
    moved = []
    for n in range(40):
        patch, label = reader.read(PatchRequest("c", (4, 4, 4), (n,)))
        assert np.linalg.norm(center_of_mass(patch[0]) - center_of_mass(label)) < 0.2
        moved.append(center_of_mass(label))
    assert np.ptp(moved, axis=0).min() > 3  # they did move


def test_the_dot_goes_where_the_matrix_says():
    # By hand: a patch voxel o shows the voxel start + c + M (o - c); so a structure at p appears at
    # c + M^-1 (p - start - c), with c the patch's center.
    random = np.random.default_rng(3)
    dot = np.array([22, 17, 25])
    image = np.zeros((1, 48, 40, 44), np.float32)
    image[0, 20:25, 15:20, 23:28] = ndimage.gaussian_filter(np.pad([[[1.0]]], 2), 1)
    label = np.zeros(image.shape[1:], np.uint8)
    start, patch_size = (6, 3, 8), (32, 28, 30)
    for _ in range(20):
        spatial = random_spatial(ALWAYS_MOVED, (1.0, 1.0, 1.0), random)
        low, _, offset = source_box(spatial, start, patch_size)
        low = np.clip(low, 0, image.shape[1:])
        patch, _ = apply_spatial(image[:, low[0] :, low[1] :, low[2] :], label[low[0] :, low[1] :, low[2] :],
                                 low, spatial, offset, patch_size)  # fmt: skip
        c = (np.array(patch_size) - 1) / 2
        expected = c + np.linalg.solve(spatial.matrix, dot - np.array(start) - c)
        if (expected > 4).all() and (expected < np.array(patch_size) - 5).all():
            assert np.abs(center_of_mass(patch[0]) - expected).max() < 0.05


def test_a_single_slice_is_scaled_without_a_look_behind_its_last_voxel():
    guarded = np.full(8 * 8 + 1, np.nan, np.float32)
    guarded[:-1] = 1
    image, label = guarded[:-1].reshape(1, 8, 8, 1), np.ones((8, 8, 1), np.uint8)
    spatial = Spatial(np.diag([1 / 1.1, 1 / 1.1, 1.0]), None)
    for shift in (0.0, 0.3):
        offset = np.array([shift, shift, 0.0])
        patch, target = apply_spatial(image, label, np.zeros(3, int), spatial, offset, (8, 8, 1))
        np.testing.assert_allclose(patch[0, :7, :7, 0], 1, rtol=1e-6)  # inside, all voxels are 1
        assert np.isfinite(patch).all() and target[3, 3, 0] == 1


def test_the_affine_equals_torchs_grid_sample():
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 21, 17, 19)).astype(np.float32)
    spatial = random_spatial(ALWAYS_MOVED, (1.0, 1.0, 1.0), random)
    _, _, offset = source_box(spatial, (-2, 3, 0), (16, 18, 22))
    label = np.zeros(image.shape[1:], np.uint8)
    patch, _ = apply_spatial(image, label, np.zeros(3), spatial, offset, (16, 18, 22))
    voxels = np.indices((16, 18, 22)).reshape(3, -1).T @ spatial.matrix.T + offset
    unit = (2 * voxels + 1) / np.array(image.shape[1:]) - 1  # align_corners=False
    grid = torch.from_numpy(unit[:, ::-1].copy()).float().view(1, 16, 18, 22, 3)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(image)[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(patch, expected, atol=1e-4)


def test_labels_equal_the_argmax_of_interpolated_one_hot_maps():
    random = np.random.default_rng(1)
    label = ndimage.zoom(random.integers(0, 4, (5, 5, 5)), 4, order=0).astype(np.uint8)
    spatial = random_spatial(ALWAYS_MOVED, (1.0, 1.0, 1.0), random)
    _, _, offset = source_box(spatial, (0, 0, 0), (20, 20, 20))
    one_hot = np.stack([label == value for value in range(4)]).astype(np.float32)
    image, got = apply_spatial(one_hot, label, np.zeros(3), spatial, offset, (20, 20, 20))
    image[0] += 1 - image.sum(0)  # outside lies background
    top_two = np.sort(image, axis=0)[-2:]
    clear = top_two[1] - top_two[0] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], image.argmax(0)[clear])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_a_mirrored_patch_is_the_reversed_one(dtype):
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 12, 10, 9)).astype(np.float32)
    label = random.integers(0, 3, (12, 10, 9)).astype(dtype)
    start, size = (2, -1, 3), (8, 12, 6)
    plain, mirrored = Spatial(np.eye(3), ()), Spatial(np.diag([-1.0, 1.0, -1.0]), (0, 2))
    results = []
    for spatial in (plain, mirrored):
        low, high, offset = source_box(spatial, start, size)
        low = np.array(start).clip(0)
        high = np.minimum(np.array(start) + size, image.shape[1:])
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        results.append(apply_spatial(image[(slice(None), *box)], label[box], low, spatial, offset, size))
    np.testing.assert_array_equal(results[1][0], results[0][0][:, ::-1, :, ::-1])
    np.testing.assert_array_equal(results[1][1], results[0][1][::-1, :, ::-1])
    np.testing.assert_array_equal(results[0][0][:, :, 1:11], image[:, 2:10, :, 3:9])
    assert not results[0][0][:, :, 0].any() and not results[0][0][:, :, 11].any()


def test_a_mirror_alone_gives_the_same_by_copy_and_by_interpolation():
    random = np.random.default_rng(0)
    image = random.normal(size=(1, 9, 8, 7)).astype(np.float32)
    label = random.integers(0, 3, (9, 8, 7)).astype(np.uint8)
    matrix = np.diag([1.0, -1.0, 1.0])
    by_copy, by_warp = (
        apply_spatial(image, label, np.zeros(3), s, source_box(s, (0, 0, 0), (9, 8, 7))[2], (9, 8, 7))
        for s in (Spatial(matrix, (1,)), Spatial(matrix, None))
    )
    np.testing.assert_allclose(by_copy[0], by_warp[0], atol=1e-6)
    np.testing.assert_array_equal(by_copy[1], by_warp[1])


def test_rotation_is_rigid_in_millimeters_where_voxels_are_not_cubes():
    spacing = np.array([0.5, 1.0, 3.0])
    augment = Augment(rotate=1, scale=0, mirror=())
    matrix = random_spatial(augment, tuple(spacing), np.random.default_rng(0)).matrix
    in_mm = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(in_mm) == pytest.approx(1)


def test_rotation_agrees_with_scipy():
    from scipy.spatial.transform import Rotation

    angles = np.array([0.3, -0.5, 1.1])
    np.testing.assert_allclose(rotation(angles), Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-12)


def test_a_scale_above_one_magnifies():
    augment = Augment(rotate=0, scale=1, scale_range=(1.3, 1.3), mirror=())
    matrix = random_spatial(augment, (1.0, 1.0, 1.0), np.random.default_rng(0)).matrix
    np.testing.assert_allclose(matrix, np.eye(3) / 1.3)


def test_both_sides_of_one_are_equally_likely():
    random = np.random.default_rng(0)
    drawn = np.array([two_sided((0.7, 1.5), random) for _ in range(4000)])
    assert abs((drawn < 1).mean() - 0.5) < 0.04 and drawn.min() > 0.7 and drawn.max() < 1.5


def test_switched_off_nothing_changes_but_mirrors():
    random = np.random.default_rng(0)
    image = random.normal(size=(1, 10, 10, 10)).astype(np.float16)
    case = MemoryCase(image, np.ones((10, 10, 10), np.uint8))
    reader = PatchReader(
        {"c": LabeledCase(case)}, (10, 10, 10), STILL.model_copy(update={"mirror": ()}), (1, 1, 1)
    )
    patch, _ = reader.read(PatchRequest("c", (0, 0, 0), (1,)))
    np.testing.assert_array_equal(patch, image.astype(np.float32))


def test_only_the_box_that_is_needed_is_read():
    case = MemoryCase(np.zeros((1, 64, 64, 64), np.float16), np.ones((64, 64, 64), np.uint8))
    PatchReader({"c": LabeledCase(case)}, (16, 16, 16), STILL, (1, 1, 1)).read(
        PatchRequest("c", (20, 20, 20), (0,))
    )
    assert case.reads == [(1, 16, 16, 16)]


def test_blur_equals_scipys_gaussian():
    volume = np.random.default_rng(0).normal(size=(14, 11, 12)).astype(np.float32)
    expected = ndimage.gaussian_filter(volume, 0.9, mode="mirror", radius=3)
    np.testing.assert_allclose(blur(volume, 0.9), expected, atol=1e-5)


def test_blur_survives_a_single_slice():
    assert np.isfinite(blur(np.ones((5, 6, 1), np.float32), 1.0)).all()


def test_low_resolution_equals_torchs_nearest_and_linear_interpolation():
    volume = np.random.default_rng(0).normal(size=(16, 12, 10)).astype(np.float32)
    tensor = torch.from_numpy(volume)[None, None]
    small = torch.nn.functional.interpolate(tensor, size=(8, 6, 5), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(small, size=(16, 12, 10), mode="trilinear")[0, 0].numpy()
    np.testing.assert_allclose(lower_resolution(volume, 0.5), expected, atol=1e-5)


def test_noise_is_normal_and_its_voxels_are_independent():
    volume = np.full((41, 40, 41), 2.0, np.float32)  # not a multiple of four: 64 bits give four numbers
    add_noise(volume, 0.25, np.random.default_rng(0))
    noise = (volume.ravel() - 2) / 0.25
    # Kolmogorov-Smirnov against scipy's normal distribution; the bound is that of 65 600 numbers at p = 0.01.
    assert stats.kstest(noise, "norm").statistic < 1.63 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1, abs=0.01) and stats.kurtosis(noise) == pytest.approx(0, abs=0.06)
    for step in (1, 2, 3, 4, 41, 1640):
        assert abs(np.corrcoef(noise[:-step], noise[step:])[0, 1]) < 4 / np.sqrt(noise.size)


def test_every_half_number_becomes_the_float_that_numpy_makes_of_it():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(4, 16, 32, 32)
    halves.setflags(write=False)  # as what is kept in memory
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(as_float32(halves), expected)
    np.testing.assert_array_equal(as_float32(halves[:, 1:, 3:7, ::2]), expected[:, 1:, 3:7, ::2])
    negative_zero = as_float32(np.full((1, 1, 1, 1), -0.0, np.float16))
    assert np.signbit(negative_zero).all()


@pytest.mark.parametrize("negative", [False, True])
def test_gamma_keeps_mean_and_spread_and_order(negative):
    volume = np.random.default_rng(0).normal(2, 3, (8, 8, 8)).astype(np.float32)
    changed = volume.copy()
    change_gamma(changed, 1.4, negative)
    assert changed.mean() == pytest.approx(volume.mean(), abs=1e-3)
    assert changed.std() == pytest.approx(volume.std(), rel=1e-3)
    np.testing.assert_array_equal(np.argsort(changed.ravel()), np.argsort(volume.ravel()))
    # By hand on the unit interval: (x - low) / range, raised, then only shifted and scaled.
    unit = (volume - volume.min()) / np.ptp(volume)
    raised = 1 - (1 - unit) ** 1.4 if negative else unit**1.4
    assert np.corrcoef(raised.ravel(), changed.ravel())[0, 1] > 0.99999


def test_gamma_of_a_constant_image_is_that_image():
    volume = np.full((4, 4, 4), 3.0, np.float32)
    change_gamma(volume, 0.7, False)
    assert (volume == 3).all()


def test_contrast_stretches_about_the_mean_within_the_old_range():
    volume = np.array([[[-1.0, 0.0, 4.0]]], np.float32)  # mean 1
    change_contrast(volume, 1.25)
    np.testing.assert_allclose(volume, [[[-1.0, -0.25, 4.0]]])  # 1 + 1.25 (x - 1), clipped to -1..4


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma"])
def test_each_change_of_intensity_happens_when_asked_for_and_else_does_not(name):
    patch = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)
    same = change_intensities(patch.copy(), STILL, np.random.default_rng(1))
    np.testing.assert_array_equal(same, patch)
    on = STILL.model_copy(update={name: 1.0})
    changed = change_intensities(patch.copy(), on, np.random.default_rng(1))
    assert np.abs(changed - patch).max() > 1e-3 and np.isfinite(changed).all()
