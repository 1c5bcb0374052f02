"""Contours to voxels against matplotlib's point-in-polygon test, and masks to their outlines and back."""

import tracemalloc

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy import ndimage

from mambamed.io.polygons import filled, outlines


@pytest.mark.parametrize("seed", range(5))
def test_centers_inside_are_those_of_matplotlib(seed) -> None:
    random = np.random.default_rng(seed)
    angle = np.sort(random.uniform(0, 2 * np.pi, 40))
    radius = random.uniform(3, 14, 40)[:, None]
    star = 12.3 + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centers = np.stack(np.meshgrid(np.arange(25), np.arange(22), indexing="ij"), axis=-1).reshape(-1, 2)
    expected = Outline(np.vstack([star, star[:1]]), closed=True).contains_points(centers).reshape(25, 22)
    found = filled([star], (25, 22))
    np.testing.assert_array_equal(found, expected)
    hole = 12.3 + 0.3 * (star - 12.3)
    ring = filled([star, hole], (25, 22))
    np.testing.assert_array_equal(ring, expected & ~filled([hole], (25, 22)))


def test_a_contour_of_many_long_edges_needs_little_memory() -> None:
    """40 000 edges that each cross 400 rows: 16 million crossings, of which 1 million are held at once."""
    zigzag = np.tile([[5.0, -0.5], [5.0, 399.5]], (20_000, 1))
    zigzag[:, 0] += np.linspace(0, 300, len(zigzag))
    tracemalloc.start()
    filled([zigzag], (400, 400))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20


def test_a_square_by_hand() -> None:
    """Corners between the centers 2 and 5: 3 x 3 voxels; a part outside the slice is cut."""
    square = np.array([[1.6, 1.6], [4.4, 1.6], [4.4, 4.4], [1.6, 4.4]])
    expected = np.zeros((6, 7), bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(filled([square], (6, 7)), expected)
    np.testing.assert_array_equal(filled([square[::-1]], (6, 7)), expected)
    cut = np.zeros((6, 7), bool)
    cut[:2, :2] = True
    np.testing.assert_array_equal(filled([square - 3], (6, 7)), cut)
    np.testing.assert_array_equal(filled([square + np.array([1e9, 0])], (6, 7)), False)


@pytest.mark.parametrize("seed", range(8))
def test_small_masks_come_back(seed) -> None:
    """Every corner case of 4 x 4 voxels that chance finds in 300 masks."""
    for mask in np.random.default_rng(seed).random((300, 4, 4)) < 0.65:
        found = outlines(mask)
        np.testing.assert_array_equal(filled(found, mask.shape), mask) if found else None
        assert len(found) == ndimage.label(mask)[1]


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_comes_back_from_its_outline(seed) -> None:
    """Noise at several densities: corners that touch, holes, islands in holes, holes side by side."""
    random = np.random.default_rng(seed)
    mask = random.random((17, 23)) < (0.2 + 0.1 * seed)
    found = outlines(mask)
    np.testing.assert_array_equal(filled(found, mask.shape), mask)
    assert len(found) == ndimage.label(mask)[1]  # one polygon per part, whatever its holes


def test_a_hole_is_joined_by_a_channel() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (outline,) = outlines(mask)
    area = 0.5 * np.sum(
        outline[:, 0] * np.roll(outline[:, 1], -1) - outline[:, 1] * np.roll(outline[:, 0], -1)
    )
    assert area == 24 and len(outline) == 4 + 2 + 4  # square, mouth of the channel, hole: its first corner
    # is met again on the straight way back
