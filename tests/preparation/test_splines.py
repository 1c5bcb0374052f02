import numpy as np
import pytest
import scipy.ndimage

from mambamed.preparation.resample import apply_columns, apply_rows
from mambamed.preparation.splines import (
    AxisOperator,
    linear_neighbors,
    nearest_neighbors,
    spline_operator,
)


def linear_operator(length: int, new_length: int) -> AxisOperator:
    """The neighbors and weights of linear interpolation, as the matrix that they stand for."""
    low, high, weight = linear_neighbors(length, new_length)
    matrix, rows = np.zeros((new_length, length), np.float32), np.arange(new_length)
    matrix[rows, low] += 1 - weight
    matrix[rows, high] += weight
    return AxisOperator(length, new_length, ((0, new_length, 0, length, matrix),))


LENGTHS = [(20, 30), (30, 20), (7, 9), (1, 3), (2, 5), (5, 1), (120, 65), (64, 64)]


@pytest.mark.parametrize(("length", "new_length"), LENGTHS)
@pytest.mark.parametrize(("operator", "order"), [(spline_operator, 3), (linear_operator, 1)])
def test_an_operator_is_scipys_zoom_of_one_axis(length, new_length, operator, order) -> None:
    line = np.random.default_rng(length).normal(size=length).astype(np.float32)
    theirs = scipy.ndimage.zoom(
        line.astype(float), new_length / length, order=order, mode="nearest", grid_mode=True
    )
    banded = operator(length, new_length)
    np.testing.assert_allclose(apply_rows(banded, line[:, None])[:, 0], theirs, atol=1e-5)
    out = np.empty((1, new_length), np.float32)
    np.testing.assert_allclose(apply_columns(banded, line[None], out)[0], theirs, atol=1e-5)


def test_a_long_axis_is_banded() -> None:
    operator = spline_operator(512, 273)
    widest = max(last - first for _, _, first, last, _ in operator.blocks)
    assert widest < 32 * 512 / 273 + 28


def test_the_nearest_voxel_is_scipys() -> None:
    for length, new_length in LENGTHS:
        where = length / new_length * (np.arange(new_length) + 0.5) - 0.5
        theirs = scipy.ndimage.map_coordinates(np.arange(float(length)), where[None], order=0, mode="nearest")
        np.testing.assert_array_equal(nearest_neighbors(length, new_length), theirs)
