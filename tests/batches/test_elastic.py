"""Elastic deformation: smooth, without folds, the same for image, label and points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import BSpline

from mambamed.batches.augment import change_intensities
from mambamed.batches.elastic import Displacement, place_of, random_displacement
from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest
from mambamed.recipe import Augment
from mambamed.tasks.cases import LabeledCase
from tests.batches.memory_case import MemoryCase

STILL = Augment(rotate=0, scale=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0)
ELASTIC = STILL.model_copy(update={"elastic": 1.0, "elastic_mm": 6.0, "elastic_smoothness_mm": 16.0})
SIZE = (28, 32, 24)


def drawn(seed=0, std=3.0, spacing=(1.0, 1.0, 2.0)) -> Displacement:
    return random_displacement(std, 10.0, spacing, SIZE, np.random.default_rng(seed))


def test_the_displacement_equals_scipys_cubic_b_spline():
    field = drawn()
    dense = field.dense(SIZE)
    assert dense.shape == (3, *SIZE)
    expected = field.control
    for axis, size in enumerate(SIZE, start=1):
        count = field.control.shape[axis]
        # Knots one step apart; control point 1 peaks at voxel 0, so the basis of point 0 begins at -3 steps.
        spline = BSpline(np.arange(-3, count + 1), np.moveaxis(expected, axis, 0), 3)
        expected = np.moveaxis(spline(np.arange(size) / field.step[axis - 1]), 0, axis)
    np.testing.assert_allclose(dense, expected, atol=1e-5)


def test_the_displacement_of_single_points_is_that_of_the_grid():
    field = drawn()
    points = np.random.default_rng(1).integers(0, SIZE, (50, 3))
    np.testing.assert_allclose(field.at(points), field.dense(SIZE)[(slice(None), *points.T)].T, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_space_never_folds_however_large_the_displacement_is_asked_for(seed):
    field = drawn(seed, std=100.0)
    grid = np.indices(SIZE) + field.dense(SIZE)
    jacobian = np.stack([np.stack(np.gradient(grid[d]), 0) for d in range(3)], 0)
    assert (np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))) > 0).all()
    assert (np.abs(field.dense(SIZE)).max(axis=(1, 2, 3)) <= field.largest + 1e-6).all()


def test_the_place_of_a_point_leads_back_to_it_and_what_is_absent_stays_absent():
    field, random = drawn(), np.random.default_rng(2)
    matrix, offset = np.diag([1.1, -0.9, 1.0]), np.array([3.0, 30.0, -2.0])
    place = random.uniform(2, 20, (20, 3))
    points = place @ matrix.T + offset + field.at(place)
    points[3] = np.nan
    found = place_of(points, matrix, offset, field)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(place, 3, 0), atol=1e-3)


def test_image_and_label_move_together_and_do_move():
    distance = np.linalg.norm(np.moveaxis(np.indices((40, 40, 40)), 0, -1) - 19.5, axis=-1)
    image = np.clip(9 - distance, 0, 1)[None].astype(np.float32)
    case = MemoryCase(image, (distance < 8.5).astype(np.uint8))
    reader = PatchReader({"c": LabeledCase(case)}, (32, 32, 32), ELASTIC, (1.0, 1.0, 1.0))
    moved = []
    for key in range(8):
        patch, label = reader.read(PatchRequest("c", (4, 4, 4), (key,)))
        # The rim's voxels may fall to either side: a twentieth of a ball of 2600 voxels, evenly around it.
        assert ((patch[0] > 0.5) != (label > 0)).mean() < 0.01
        centers = ndimage.center_of_mass(patch[0]), ndimage.center_of_mass(label)
        assert np.linalg.norm(np.subtract(*centers)) < 0.2
        moved.append(ndimage.center_of_mass(label))
    assert np.ptp(moved, axis=0).max() > 1


def test_without_elastic_the_same_seeds_give_the_same_patches_as_ever():
    random = np.random.default_rng(0)
    case = MemoryCase(
        random.normal(size=(1, 20, 20, 20)).astype(np.float32), np.zeros((20, 20, 20), np.uint8)
    )
    rotated = STILL.model_copy(update={"rotate": 1.0})
    one, other = (
        PatchReader({"c": LabeledCase(case)}, (12, 12, 12), augment, (1.0, 1.0, 1.0)).read(
            PatchRequest("c", (4, 4, 4), (5,))
        )
        for augment in (rotated, rotated.model_copy(update={"elastic_mm": 9.0}))
    )
    np.testing.assert_array_equal(one[0], other[0])


def test_channels_are_dropped_but_one_stays():
    always = STILL.model_copy(update={"drop_channel": 1.0})
    often = STILL.model_copy(update={"drop_channel": 0.3})
    left = []
    for seed in range(200):
        patch = np.ones((4, 3, 3, 3), np.float32)
        assert change_intensities(patch.copy(), always, np.random.default_rng(seed)).sum() == 27
        left.append((change_intensities(patch, often, np.random.default_rng(seed))[:, 0, 0, 0] > 0).sum())
    # One channel stays for certain, three with chance 0.7: 3.1 in the mean.
    assert np.mean(left) == pytest.approx(3.1, abs=0.2) and min(left) >= 1
