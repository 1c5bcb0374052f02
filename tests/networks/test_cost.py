"""Counts against those of architectures.md, made there with hooks on the authors' code."""

import math

import pytest
import torch

from mambamed.networks import build_network
from mambamed.networks.cost import network_cost


def cost_of(in_channels: int, out_channels: int, shape, **options):
    with torch.device("meta"):
        network = build_network("nnmamba", in_channels, out_channels, **options)
    return network_cost(network, in_channels, shape)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "shape", "conv_gmac", "scan_g", "longest"),
    [
        (1, 16, (128, 128, 128), 137.81, 0.70, 32768),
        (4, 4, (128, 128, 128), 103.15, 0.70, 32768),
        (1, 16, (64, 160, 160), 107.66, 0.55, 25600),
    ],
)
def test_counts_are_those_of_the_public_code(
    in_channels, out_channels, shape, conv_gmac, scan_g, longest
) -> None:
    cost = cost_of(in_channels, out_channels, shape, head="paper", deep_supervision=False)
    # Convolutions and a share of the products: the four readings of a MICCSS have projections in common.
    assert conv_gmac < cost.gmacs < conv_gmac * 1.1
    assert round(cost.scan_g, 2) == scan_g
    assert cost.longest_sequence == longest
    control = cost_of(in_channels, out_channels, shape, head="paper", deep_supervision=False, mixer="none")
    # Their convolutions include Mamba's depthwise one: 4 taps, 4 readings in 2 blocks of each stage.
    voxels = math.prod(shape)
    depthwise = sum(8 * 4 * (2 * 64 * 2**i) * voxels / 4**3 / 8**i for i in range(3)) / 1e9
    assert control.gmacs == pytest.approx(conv_gmac - depthwise, abs=0.006)
    assert control.scans == 0


def test_kept_activations_are_those_of_a_hand_count() -> None:
    """conv -> ReLU -> conv on 8^3 voxels: kept are the input (2 channels), and the ReLU's output (4)."""
    from torch import nn

    network = nn.Sequential(nn.Conv3d(2, 4, 1), nn.ReLU(), nn.Conv3d(4, 3, 1)).to("meta")
    cost = network_cost(network, 2, (8, 8, 8))
    assert cost.activations_gib * 2**30 == (2 + 4) * 8**3 * 4
    assert cost.parameters == 2 * 4 + 4 + 4 * 3 + 3
    assert cost.gmacs * 1e9 == (2 * 4 + 4 * 3) * 8**3
