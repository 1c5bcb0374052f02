"""The Mamba U-Nets: each direction against its sequence written out voxel by voxel."""

import itertools

import pytest
import torch
from torch import Tensor

from mambamed.networks.mamba_unet import CODE_ORDERS, BothWays, MambaLayer, MambaTrans


def test_one_direction_is_two_residuals() -> None:
    torch.manual_seed(0)
    trans, x = MambaTrans(4, 4), torch.randn(1, 7, 4)
    y = x + trans.mamba(trans.norm1(x))
    torch.testing.assert_close(trans(x), y + trans.linear(trans.norm2(y)))
    flipped = torch.flip(trans(torch.flip(x, (1,))), (1,))
    torch.testing.assert_close(trans(x, reverse=True), flipped, rtol=1e-4, atol=1e-5)


def sequence_by_hand(grid: Tensor, order: tuple[int, int, int]) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """(C, X, Y, Z) -> tokens, by three loops over the axes of the order, the last one innermost."""
    places = []
    for i, j, k in itertools.product(*(range(grid.shape[1 + axis]) for axis in order)):
        place = [0, 0, 0]
        place[order[0]], place[order[1]], place[order[2]] = i, j, k
        places.append((place[0], place[1], place[2]))
    return torch.stack([grid[:, x, y, z] for x, y, z in places]), places


@pytest.mark.parametrize("orders", [CODE_ORDERS, tuple(itertools.permutations(range(3)))])
def test_many_directions_are_the_mean_over_sequences_written_out(orders) -> None:
    """Forward and backward over four or six orders: eight or twelve sequences, one voxel at a time."""
    torch.manual_seed(0)
    layer, x = MambaLayer(4, "multi", orders, 64), torch.randn(1, 4, 2, 3, 4)
    expected = torch.zeros(4, 2, 3, 4)
    with torch.no_grad():
        for block, order in zip(layer.blocks, orders, strict=True):
            assert isinstance(block, BothWays)
            tokens, places = sequence_by_hand(x[0], order)
            forth = block.forth(tokens[None])
            back = torch.flip(block.back(torch.flip(tokens[None], (1,))), (1,))
            answer = block.norm(forth + back)[0]
            for token, (i, j, k) in zip(answer, places, strict=True):
                expected[:, i, j, k] += token / len(orders)
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-5)
