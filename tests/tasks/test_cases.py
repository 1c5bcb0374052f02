"""Landmarks and classes beside the image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest, Sampler
from mambamed.errors import DatasetError
from mambamed.recipe import Augment
from mambamed.tasks.cases import ClassedCase, LabeledCase, PointedCase
from tests.batches.memory_case import MemoryCase

MOVED = Augment(rotate=1, rotate_degrees=180, scale=1, noise=0, blur=0, brightness=0, contrast=0, gamma=0)
MOVED = MOVED.model_copy(update={"low_resolution": 0, "elastic": 0.5, "elastic_mm": 2.0})
NAMES = ("left", "right", "absent", "unknown")


class Case:
    """Bright blobs of known places stand for the landmarks."""

    id, shape, class_name, covariates = "c", (30, 32, 28), "ad", {"age": "70", "sex": "n/a"}
    absent_points = ("absent",)

    def __init__(self) -> None:
        self.points_voxel = {"left": np.array([12.0, 14.0, 11.0]), "right": np.array([17.0, 14.0, 16.0])}
        grid = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1)
        blobs = [np.exp(-((grid - v) ** 2).sum(-1) / 8) for v in self.points_voxel.values()]
        self.array = np.stack(blobs).astype(np.float32)

    def image(self, box=None):
        low, high = box
        return self.array[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]


def test_points_come_in_the_order_of_the_names_and_say_what_is_absent_or_unknown():
    case = PointedCase(Case(), NAMES)
    np.testing.assert_allclose(case.points[:2], [[12, 14, 11], [17, 14, 16]], atol=1e-9)
    assert np.isinf(case.points[2]).all() and np.isnan(case.points[3]).all()
    assert case.foreground.tolist() == [[1, 12, 14, 11], [2, 17, 14, 16]]


@pytest.mark.parametrize("key", range(12))
def test_points_move_with_the_image(key):
    """The blob's center of mass in the moved image is where the point says, to a twentieth of a voxel."""
    size = (40, 40, 40)
    reader = PatchReader({"c": PointedCase(Case(), NAMES)}, size, MOVED, (1.0, 1.0, 1.0))
    patch, points = reader.read(PatchRequest("c", (-5, -4, -6), (key,)))
    assert points.shape == (4, 3) and points.dtype == np.float32
    assert np.isposinf(points[2]).all() and np.isnan(points[3]).all()
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    for channel in range(2):
        weight = np.maximum(patch[channel] - 0.05, 0)[..., None]
        np.testing.assert_allclose((grid * weight).sum((0, 1, 2)) / weight.sum(), points[channel], atol=0.1)


def test_left_and_right_change_names_in_a_mirror_image_and_only_there():
    plain = {"rotate": 0, "scale": 0}
    for mirror, swapped in ((("x",), (True, False)), ((), (False,))):
        augment = MOVED.model_copy(update={**plain, "mirror": mirror})
        reader = PatchReader(
            {"c": PointedCase(Case(), NAMES, (1, 0, 2, 3))}, (40, 40, 40), augment, (1.0,) * 3
        )
        seen = set()
        for key in range(8):
            patch, points = reader.read(PatchRequest("c", (-5, -4, -6), (key,)))
            peak = [np.array(np.unravel_index(patch[c].argmax(), (40, 40, 40))) for c in range(2)]
            same = np.abs(peak[0] - points[0]).max() < 1.5
            assert same or np.abs(peak[1] - points[0]).max() < 1.5
            seen.add(not same)
        assert seen == set(swapped)


def test_a_class_is_its_place_among_the_names_and_a_strange_one_is_refused():
    assert ClassedCase(Case(), ("nc", "ad")).class_index == 1
    reader = PatchReader({"c": ClassedCase(Case(), ("nc", "ad"))}, (8, 8, 8), None, (1, 1, 1))
    batch = reader.batch([PatchRequest("c", (0, 0, 0), (0,))] * 2)
    assert batch.target.tolist() == [1, 1]
    with pytest.raises(DatasetError, match="c: class 'ad' is not one of nc, mci"):
        ClassedCase(Case(), ("nc", "mci"))


def test_covariates_follow_the_image_as_constant_channels():
    wanted = {"age": "number", "sex": ("F", "M")}
    cases = {"c": ClassedCase(Case(), ("nc", "ad"), wanted)}
    augment = MOVED.model_copy(update={"noise": 1.0, "brightness": 1.0})
    for how in (None, augment):
        batch = PatchReader(cases, (8, 8, 8), how, (1, 1, 1)).batch([PatchRequest("c", (0, 0, 0), (0,))])
        assert batch.image.shape == (1, 4, 8, 8, 8)
        assert (batch.image[0, 2] == 70).all()
        assert batch.image[0, 3].isnan().all()


def test_a_centered_patch_lies_in_the_middle():
    cases = {"c": ClassedCase(Case(), ("ad",))}
    starts = {r.start for k in range(5) for r in Sampler(cases, (20, 20, 40), 1, 0.5, (0,), True).requests(k)}
    # (30 - 20) / 2, (32 - 20) / 2, and 6 voxels of zeros on either side of the 28
    assert starts == {(5, 6, -6)}


def test_no_patch_is_centered_on_what_nobody_labeled():
    """Label 3 is "ignore" and by far the largest; without the filter half of the patches lay in it."""
    label = np.zeros((40, 12, 12), np.uint8)
    label[2, 6, 6], label[20:38] = 1, 3
    case = MemoryCase(np.zeros((1, 40, 12, 12), np.float16), label)
    cases = {"c": LabeledCase(case, ignored=3)}
    starts = [r.start[0] for k in range(30) for r in Sampler(cases, (4, 4, 4), 1, 1.0, (0,)).requests(k)]
    assert set(starts) == {0}  # centered on voxel 2
    reader = PatchReader(cases, (4, 4, 4), None, (1, 1, 1))
    _, reference = reader.read(PatchRequest("c", (19, 0, 0), (0,)))
    assert set(np.unique(reference)) == {0, 3}  # as voxels they stay what they are: unknown to the loss
    assert LabeledCase(case).foreground is case.foreground


def test_labels_change_sides_in_a_mirror_image_and_only_there():
    """The image is the label map, so that a mirrored patch shows each side with the name of the other."""
    case = MemoryCase(np.zeros((1, 8, 6, 4), np.float32), np.zeros((8, 6, 4), np.int16))
    case.labels[1:3], case.labels[5:7], case.labels[4], case.labels[:, 0] = 1, 2, 3, 300
    case.array[0] = case.labels
    seen, still = set(), {"rotate": 0.0, "scale": 0.0, "elastic": 0.0}
    for mirror, key in itertools.product(("x", "y", "xz"), range(6)):
        augment = MOVED.model_copy(update={**still, "mirror": tuple(mirror)})
        reader = PatchReader({"c": LabeledCase(case, 3, {1: 2, 2: 1})}, (8, 6, 4), augment, (1.0,) * 3)
        patch, target = reader.read(PatchRequest("c", (0, 0, 0), (key,)))
        shown = patch[0].astype(int)
        across_x = bool((shown[1] == 2).any())
        seen.add((mirror, across_x))
        expected = np.select([shown == 1, shown == 2], [2, 1], shown) if across_x else shown
        np.testing.assert_array_equal(target, expected)
    assert seen == {("x", False), ("x", True), ("y", False), ("xz", False), ("xz", True)}


def test_a_class_becomes_that_of_the_other_side_in_a_mirror_image():
    augment = MOVED.model_copy(update={"mirror": ("x",), "rotate": 0.0, "scale": 0.0})
    reader = PatchReader(
        {"c": ClassedCase(Case(), ("ad", "nc"), None, (1, 0))}, (40, 40, 40), augment, (1.0,) * 3
    )
    seen = set()
    for key in range(8):
        patch, index = reader.read(PatchRequest("c", (-5, -4, -6), (key,)))
        left, right = (patch[c].max((1, 2)).argmax() for c in range(2))
        assert int(index) == int(left > right)  # "left" lies at the smaller x in the image as it is
        seen.add(int(index))
    assert seen == {0, 1}
