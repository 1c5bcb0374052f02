import itertools
import math

import pytest
import torch

from mambamed.networks.parts.positions import sines


@pytest.mark.parametrize("first", [0.5, 1.0])
def test_positions_are_sines_and_cosines_in_turn(first) -> None:
    """A third per axis; frequencies change every three numbers, as written in the public code."""
    shape, each = (2, 3, 4), 8
    table = sines(shape, 3 * each, torch.device("cpu"), first)
    for row, place in enumerate(itertools.product(*map(range, shape))):
        for axis, k in itertools.product(range(3), range(each)):
            g = (place[axis] + first) / (shape[axis] + 1e-6) * 2 * math.pi
            a = g / 10000 ** (3 * (k // 3) / each)
            expected = math.sin(a) if k % 2 == 0 else math.cos(a)
            assert table[row, axis * each + k] == pytest.approx(expected, abs=1e-5)
