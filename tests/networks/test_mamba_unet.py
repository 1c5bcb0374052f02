"""The Mamba U-Nets: each direction against its sequence written out voxel by voxel."""

import itertools

import pytest
import torch
from torch import Tensor

from mambamed.networks import build_network
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


def test_at_the_skips_the_next_stage_reads_what_the_layer_does_not_change() -> None:
    """TamingMambas' SegMambaSkip, stage by stage; both networks have the same weights."""
    torch.manual_seed(0)
    options = {"channels": 4, "stages": 3}
    network = build_network("mamba_unet", 1, 2, mamba_at="skips", **options).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        skips, path = [], x
        for stage, layer in network.stages:
            path = stage(path)
            skips.append(layer(path))
        y = skips[2]
        for step, skip in zip(network.steps, (skips[1], skips[0]), strict=True):
            y = step(y, skip)
        torch.testing.assert_close(network(x), network.heads[-1](y))
        other = build_network("mamba_unet", 1, 2, **options).eval()
        other.load_state_dict(network.state_dict())
        assert not torch.allclose(other(x), network(x), atol=1e-3)


def test_at_the_skips_every_parameter_is_trained_with_and_without_recomputation() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        options = {"channels": 4, "stages": 3, "mamba_at": "skips", "gradient_checkpointing": again}
        network = build_network("mamba_unet", 1, 2, **options).train()
        sum(y.square().mean() for y in network(torch.ones(2, 1, 16, 16, 24))).backward()
        gradients.append({key: p.grad for key, p in network.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6)
