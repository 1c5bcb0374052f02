"""Against the same by NumPy and SciPy, for views of every memory layout."""

import numpy as np
import pytest
import scipy.ndimage

from mambamed.preparation.image_kernels import (
    filled_mask,
    foreground_histogram,
    grow_box,
    in_kernel_type,
    in_memory_order,
    moments,
)
from tests.preparation.memory_layouts import layouts

RNG = np.random.default_rng(8)


@pytest.fixture(params=[np.int16, np.float32])
def blobs(request):
    """A few blobs in zeros, some hollow."""
    field = scipy.ndimage.gaussian_filter(RNG.normal(size=(40, 37, 33)), 2)
    image = np.where(np.abs(field) > 1.2 * field.std(), RNG.integers(-90, 90, field.shape), 0)
    image[:3], image[:, :, -2:] = 0, 0
    return image.astype(request.param)


def test_the_box_is_that_of_what_is_not_zero(blobs) -> None:
    places = np.argwhere(blobs)
    for image in layouts(blobs):
        start, stop = np.array(image.shape), np.zeros(3, np.int64)
        grow_box(image, start, stop)
        assert start.tolist() == places.min(0).tolist()
        assert stop.tolist() == (places.max(0) + 1).tolist()


def test_the_mask_is_filled_as_scipy_fills_it(blobs) -> None:
    other = np.roll(blobs, 3, axis=1)
    theirs = scipy.ndimage.binary_fill_holes((blobs != 0) | (other != 0))
    assert theirs.sum() > ((blobs != 0) | (other != 0)).sum()
    for first, second in zip(layouts(blobs), layouts(other), strict=True):
        np.testing.assert_array_equal(filled_mask([first, second]), theirs)


def test_moments_are_numpys(blobs) -> None:
    mask = RNG.random(blobs.shape) > 0.4
    for shift in (0, 10_000):
        exact = blobs.astype(float) + shift
        for image in layouts((blobs + shift).astype(blobs.dtype)):
            ours = moments(image, mask)
            inside = exact[mask]
            np.testing.assert_allclose(ours[:2], [inside.mean(), inside.std()], rtol=1e-9, atol=1e-9)
            assert ours[2] == inside.size
            np.testing.assert_allclose(moments(image)[:2], [exact.mean(), exact.std()], rtol=1e-9)


def test_nothing_has_moments_of_zero() -> None:
    image = np.ones((2, 2, 2), np.float32)
    assert moments(image, np.zeros((2, 2, 2), bool)) == (0.0, 0.0, 0)


def test_the_histogram_counts_the_foreground(blobs) -> None:
    label = RNG.integers(0, 3, blobs.shape).astype(np.uint8)
    theirs = np.bincount(blobs[label > 0].astype(int) + 90, minlength=181)
    for image in layouts(blobs):
        np.testing.assert_array_equal(foreground_histogram(image, label, -90, 1, 181), theirs)


def test_a_winding_way_in_is_no_hole() -> None:
    """A spiral corridor that sweeps must turn round several times for."""
    image = np.ones((3, 9, 9), np.int16)
    walk = [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (7, 2), (7, 3), (7, 4), (7, 5)]
    walk += [(7, 6), (7, 7), (6, 7), (5, 7), (4, 7), (3, 7), (2, 7), (1, 7), (1, 6), (1, 5), (1, 4), (1, 3)]
    walk += [(2, 3), (3, 3), (4, 3), (5, 3), (5, 4), (5, 5), (4, 5), (3, 5)]
    for y, z in walk:
        image[1, y, z] = 0
    for view in layouts(image):
        assert filled_mask([view]).sum() == image.size - len(walk)
    image[1, 0, 1] = 1
    assert filled_mask([image]).all()


def test_memory_order_is_slowest_first_and_forward() -> None:
    array = np.asfortranarray(np.arange(24).reshape(2, 3, 4))[::-1]
    view, order = in_memory_order(array)
    assert order == (2, 1, 0)
    assert view.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float64, np.int16])
def test_every_type_of_file_keeps_its_values(dtype) -> None:
    array = np.array([[[0, 1, 100]]], dtype)
    np.testing.assert_array_equal(in_kernel_type(array), array)
    assert in_kernel_type(array).dtype in (np.int16, np.float32)
