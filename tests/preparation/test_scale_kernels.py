"""Against the same by NumPy, for views of every memory layout."""

import numpy as np
import pytest

from mambamed.preparation.image_kernels import moments
from mambamed.preparation.scale_kernels import scale_into, to_float16
from tests.preparation.memory_layouts import layouts

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_scaling_clips_shifts_and_multiplies(dtype) -> None:
    blobs = RNG.integers(-90, 90, (40, 37, 33)).astype(dtype)
    for image in layouts(blobs):
        out = np.empty(blobs.shape, np.float32)
        scale_into(image, out, -50, 70, 12.5, 0.25)
        expected = (np.clip(blobs, -50, 70) - 12.5) * 0.25
        np.testing.assert_allclose(out, expected, rtol=1e-6)
        mask = RNG.random(blobs.shape) > 0.5
        scale_into(image, out, -50, 70, 12.5, 0.25, mask)
        np.testing.assert_allclose(out, np.where(mask, expected, 0), rtol=1e-6)


def test_halves_are_numpys() -> None:
    """All halves, what lies midway between two, and its neighbors: ties and roundings of every exponent."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    midway = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([halves, midway, np.nextafter(midway, 0), np.nextafter(midway, np.float32(1e9))])
    values = np.concatenate([values, -values, RNG.normal(size=1000)]).astype(np.float32)
    ours = np.empty(values.shape, np.float16)
    to_float16(values, ours)
    np.testing.assert_array_equal(ours, values.astype(np.float16))
    beyond = np.empty(2, np.float16)
    to_float16(np.array([65520, -3e38], np.float32), beyond)
    assert beyond.tolist() == [65504, -65504]


def test_a_crop_is_scaled_and_measured_like_a_copy_of_it() -> None:
    """It is worked on a few planes at a time, more than once here; halves are rounded as NumPy does."""
    for dtype in (np.int16, np.float32):
        whole = RNG.integers(-900, 900, (90, 80, 85)).astype(dtype)
        for image in layouts(whole):
            crop = image[3:79, 5:, :70]
            copied = whole[3:79, 5:, :70].copy()
            mask = copied > -500
            np.testing.assert_allclose(moments(crop, mask), moments(copied, mask), rtol=1e-12)
            single, half = np.empty(crop.shape, np.float32), np.empty(crop.shape, np.float16)
            scale_into(crop, single, -700, 800, 12.5, 0.01, mask)
            expected = np.where(mask, (np.clip(copied, -700, 800) - np.float32(12.5)) * np.float32(0.01), 0)
            np.testing.assert_allclose(single, expected, rtol=1e-6)
            scale_into(crop, half, -700, 800, 12.5, 0.01, mask)
            np.testing.assert_array_equal(half, single.astype(np.float16))
