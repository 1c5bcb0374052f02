"""nnU-Net, ResEnc, U-Mamba and the Mamba U-Nets at the plans that their papers used.

Parameter counts are those that architectures.md reports of the public code; for nnU-Net's own two networks
they are those of dynamic-network-architectures, which nnU-Net prints.
"""

import itertools

import pytest
import torch
from torch import Tensor

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.mamba_unet import CODE_ORDERS, BothWays, MambaLayer, MambaTrans
from mambamed.networks.umamba import ChannelMamba, VoxelMamba

SYNAPSE = {
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernels": [[1, 3, 3], 3, 3, 3, 3, 3],
}
BRATS = {"strides": [1, 2, 2, 2, 2, 2]}
PLANS = {"synapse": (SYNAPSE, 1, 14, (48, 192, 192)), "brats": (BRATS, 4, 4, (128, 128, 128))}


def planned(name: str, plan: str, **options):
    topology, inputs, outputs, patch = PLANS[plan]
    if name == "umamba":
        options["patch_size"] = patch
    with torch.device("meta"):
        return build_network(name, inputs, outputs, **topology, **options)


def millions(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "options", "synapse", "brats"),
    [
        ("mamba_unet", {"directions": "uni"}, 60.8010, 61.3798),
        ("mamba_unet", {"directions": "bi"}, 64.4456, 65.0244),
        ("mamba_unet", {"directions": "multi"}, 77.6537, 78.2325),
        ("umamba", {"variant": "bot"}, 41.9452, 42.125),
        ("umamba", {"variant": "enc"}, 42.8591, 42.755),
    ],
)
def test_parameters_are_those_of_the_public_code(name, options, synapse, brats) -> None:
    assert millions(planned(name, "synapse", **options)) == pytest.approx(synapse, abs=5e-5)
    digits = 5e-5 if name == "mamba_unet" else 5e-4
    assert millions(planned(name, "brats", **options)) == pytest.approx(brats, abs=digits)


def test_resenc_has_the_parameters_that_nnunet_prints() -> None:
    """102.35 M for ResEnc L on BraTS, as its documentation's memory table lists the size."""
    assert millions(planned("nnunet_resenc", "brats")) == pytest.approx(102.354, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "plan", "scan_g", "longest"),
    [
        ("mamba_unet", {"directions": "uni"}, "synapse", 10.14, 1769472),
        ("mamba_unet", {"directions": "bi"}, "brats", 16.29, 2097152),
        ("mamba_unet", {"directions": "multi"}, "brats", 57.10, 2097152),
        ("umamba", {"variant": "enc"}, "synapse", 3.0, 1769472),
    ],
)
def test_scans_are_as_long_as_the_specification_counts(name, options, plan, scan_g, longest) -> None:
    _, inputs, _, patch = PLANS[plan]
    cost = network_cost(planned(name, plan, **options), inputs, patch)
    assert cost.scan_g == pytest.approx(scan_g, abs=0.05)
    assert cost.longest_sequence == longest


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


def test_the_bottom_of_enc_reads_channels_where_voxels_are_few() -> None:
    network = build_network("umamba", 1, 2, variant="enc", channels=4, stages=4, patch_size=[16, 16, 16])
    layers = [stage[1] for stage in network.stages]
    # 16^3, 8^3, 4^3 and 2^3 voxels against 4, 8, 16 and 32 channels
    assert [type(layer) for layer in layers] == [VoxelMamba, VoxelMamba, VoxelMamba, ChannelMamba]
    with pytest.raises(RecipeError, match=r"network\.patch_size"):
        build_network("umamba", 1, 2, variant="enc")


def test_a_topology_that_does_not_agree_is_refused() -> None:
    with pytest.raises(RecipeError, match="3 stages, 2 strides"):
        build_network("nnunet", 1, 2, stages=3, strides=[1, 2])


def test_a_residual_unit_starts_as_its_shortcut() -> None:
    """The last norm starts at zero, so that only the shortcut speaks."""
    network = build_network("nnunet_resenc", 1, 2, channels=4, stages=2)
    unit = network.stages[1][1]
    x = torch.randn(1, 8, 4, 4, 4)
    torch.testing.assert_close(unit(x), torch.nn.functional.leaky_relu(x, 0.01))
