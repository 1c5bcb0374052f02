"""Against NumPy over all the voxels at once."""

import numpy as np
import pytest

from mambamed.preparation.fingerprint import Histogram

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("seed", range(4))
def test_statistics_of_several_cases_are_those_of_all_their_voxels(seed) -> None:
    rng = np.random.default_rng(seed)
    parts, everything = [], []
    for size in (5, 8, 11):
        image = rng.integers(-1000, 900, (size, 7, 6)).astype(np.int16)
        label = rng.integers(0, 2, image.shape).astype(np.uint8)
        parts.append(Histogram.of(image, label))
        everything.append(image[label > 0])
    values = np.concatenate(everything)
    total = Histogram.total(parts)
    assert total.voxels == values.size
    for q in (0, 0.005, 0.25, 0.5, 0.995, 1):
        np.testing.assert_allclose(total.quantile(q), np.quantile(values, q), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(total.mean_and_std(), [values.mean(), values.std()], rtol=1e-12)


def test_fractions_are_counted_to_a_sixteenth() -> None:
    image = RNG.normal(40, 20, (20, 20, 20)).astype(np.float32)
    label = np.ones(image.shape, np.uint8)
    whole = Histogram.of(np.rint(image).astype(np.int16), label)
    fine = Histogram.of(image, label)
    assert (whole.bins_a_unit, fine.bins_a_unit) == (1, 16)
    assert abs(fine.quantile(0.995) - np.quantile(image, 0.995)) <= 1 / 32 + 1e-6
    both = Histogram.total([whole, fine])
    values = np.concatenate([np.rint(image).ravel(), image.ravel()])
    assert abs(both.quantile(0.3) - np.quantile(values, 0.3)) <= 1 / 32 + 1e-6


def test_a_case_without_foreground_adds_nothing() -> None:
    image = np.ones((3, 3, 3), np.int16)
    empty = Histogram.of(image, np.zeros(image.shape, np.uint8))
    full = Histogram.of(image, np.ones(image.shape, np.uint8))
    assert Histogram.total([empty, full]).voxels == 27
    assert Histogram.total([empty]).voxels == 0
