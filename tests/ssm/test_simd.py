"""The functions of vectors, at both widths, against numpy in float64."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from mambamed.ssm.lanes import load_rows, store_rows
from mambamed.ssm.simd import LaneSums, emitter, exp2, host_width, sigmoid, softplus
from mambamed.ssm.turned import transposed

WIDTHS = [8, 16] if host_width() == 16 else [8]


@emitter(lambda rows: rows)
def exp2_rows(rows):
    return exp2(rows)


@emitter(lambda rows: rows)
def softplus_rows(rows):
    return softplus(rows)


@emitter(lambda rows: rows)
def sigmoid_rows(rows):
    return sigmoid(rows)


@emitter(lambda rows: rows)
def sum_rows(rows):
    """The lane sums of all rows, in every row."""
    sums, half = LaneSums(rows[0].width), len(rows) // 2
    for i, row in enumerate(rows):
        sums.add(i // half, row)
    return [sums.total() for _ in rows]


@emitter(lambda rows: rows)
def transpose_rows(rows):
    return transposed(rows)


def applied(function, numbers: np.ndarray, width: int) -> np.ndarray:
    """`function` of `width` rows of `width` numbers."""
    vector = 4 * width

    @njit
    def kernel(source, target):
        store_rows(target, vector, function(load_rows(source, vector, width, width)))

    source = np.ascontiguousarray(numbers, np.float32)
    out = np.empty_like(source)
    for start in range(0, source.size, width * width):
        kernel(source.ctypes.data + 4 * start, out.ctypes.data + 4 * start)
    return out.astype(np.float64)


@pytest.mark.parametrize("width", WIDTHS)
def test_exp2_is_right_to_two_roundings_and_keeps_slow_decays(width) -> None:
    x = np.linspace(-125, 125, 1024).astype(np.float32)
    wanted = np.exp2(x.astype(np.float64))
    assert np.abs(applied(exp2_rows, x, width) / wanted - 1).max() < 2.5e-7
    slow = -np.logspace(-6, -1, 1024).astype(np.float32)
    lost = 1 - applied(exp2_rows, slow, width)
    # what a state loses per token, to the rounding of 1 - x itself
    assert np.abs(lost - (1 - np.exp2(slow.astype(np.float64)))).max() < 7e-8
    assert applied(exp2_rows, np.zeros(256), width).min() == 1.0
    assert applied(exp2_rows, np.full(256, -1e30), width).max() < 1e-37
    assert np.isfinite(applied(exp2_rows, np.full(256, -np.inf), width)).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_softplus_and_sigmoid_are_right_at_both_ends(width) -> None:
    x = np.linspace(-80, 80, 1024).astype(np.float32)
    precise = x.astype(np.float64)
    soft = np.logaddexp(0, precise)
    # 2^-23 |x| of it is the rounding of log2(e) and of x log2(e), which no float32 formula escapes
    assert (np.abs(applied(softplus_rows, x, width) / soft - 1) < 3e-7 + np.abs(x) * 2**-23).all()
    found = applied(sigmoid_rows, x, width) * (1 + np.exp(-precise))
    assert (np.abs(found - 1) < 4e-7 + np.abs(x) * 2**-23).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_lane_sums_come_in_order(width) -> None:
    numbers = np.random.default_rng(0).integers(-50, 50, (width, width))
    summed = applied(sum_rows, numbers.reshape(-1), width).reshape(width, width)
    assert np.array_equal(summed, np.broadcast_to(numbers.sum(1), (width, width)))


@pytest.mark.parametrize("width", [4, 8, 16])
def test_squares_are_transposed(width) -> None:
    numbers = np.arange(2 * width * width, dtype=np.float32)
    squares = numbers.reshape(2, width, width)
    assert np.array_equal(
        applied(transpose_rows, numbers, width).reshape(squares.shape), squares.transpose(0, 2, 1)
    )
