"""Counts against those of architectures.md, made there with hooks on the authors' code."""

import pytest
import torch
from torch import nn

from mambamed.networks import build_network
from mambamed.networks.cost import Cost, network_cost

CUBE = (128, 128, 128)
PAPER = {"head": "paper", "deep_supervision": False}
STEM = PAPER | {"mamba_at": "stem"}

# network, channels in and out, options, patch -> GMAC of convolutions and of products, G state updates,
# scans, longest sequence
COUNTED = [
    ("nnmamba_v1", 1, 16, PAPER, CUBE, 136.71, 1.64, 0.09, 3, 32768),
    ("nnmamba_v1", 4, 4, PAPER, CUBE, 102.06, 1.64, 0.09, 3, 32768),
    ("nnmamba_v1", 1, 6, STEM, CUBE, 106.18, 2.21, 0.27, 1, 262144),
    ("nnmamba_v1_classifier", 1, 1, {}, CUBE, 42.54, 2.21, 0.27, 1, 262144),
    ("nnmamba", 1, 16, PAPER, CUBE, 137.81, 13.15, 0.70, 24, 32768),
    ("nnmamba", 4, 4, PAPER, CUBE, 103.15, 13.15, 0.70, 24, 32768),
    ("nnmamba", 1, 16, PAPER, (64, 160, 160), 107.66, 10.28, 0.55, 24, 25600),
    # 137.38 in the public code, whose deep heads always run: 16 (32 * 64^3 + 64 * 32^3 + 128 * 16^3) more
    ("nnmamba", 1, 16, {"head": "paper", "mixer": "plain"}, CUBE, 137.21, 3.29, 0.18, 6, 32768),
    ("nnmamba", 1, 6, PAPER, CUBE, 107.23, 13.15, 0.70, 24, 32768),
    ("nnmamba_classifier", 1, 1, {}, CUBE, 43.08, 1.95, 0.13, 2, 262144),
    ("nnmamba_classifier", 1, 1, {}, (112, 136, 112), 35.28, 1.58, 0.11, 2, 213248),
    ("nnmamba_classifier", 1, 1, {"hierarchy": "concat"}, CUBE, 43.08, 1.95, 0.13, 1, 262144),
    ("segmamba", 4, 4, {}, CUBE, 1446.98, 21.71, 3.21, 24, 262144),
    ("segmamba", 4, 4, {"version": "first"}, CUBE, 1387.83, 19.00, 2.14, 16, 262144),
]


def cost_of(
    name: str, in_channels: int, out_channels: int, options: dict, shape, batch_size: int = 2
) -> Cost:
    with torch.device("meta"):
        network = build_network(name, in_channels, out_channels, **options)
    return network_cost(network, in_channels, shape, batch_size)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "options", "shape", "conv", "products", "scan_g", "scans", "longest"),
    COUNTED,
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_counts_are_those_of_the_public_code(
    name, inputs, outputs, options, shape, conv, products, scan_g, scans, longest
) -> None:
    cost = cost_of(name, inputs, outputs, options, shape)
    assert round(cost.conv_gmacs, 2) == conv
    assert round(cost.scan_g, 2) == scan_g
    assert (cost.scans, cost.longest_sequence) == (scans, longest)
    if name == "nnmamba" and options.get("mixer") != "plain":
        # The public code projects each of the four readings by itself. Ours has one in_proj for the two that
        # differ in the direction of the length, and adds these two before one out_proj.
        assert cost.product_gmacs == pytest.approx(products - _shared_projections(shape), abs=0.006)
    else:
        assert round(cost.product_gmacs, 2) == products


def _shared_projections(shape) -> float:
    """GMAC of in_proj (d -> 4 d) and out_proj (2 d -> d) for two of four readings, 2 blocks, 3 stages."""
    total = 0
    for stage in range(3):
        width, voxels = 64 * 2**stage, 1
        for size in shape:
            voxels *= size // 4 // 2**stage
        total += 2 * 2 * (4 + 2) * width**2 * voxels
    return total / 1e9


def test_the_control_costs_the_same_without_scans() -> None:
    """Without Mamba's depthwise convolution: 4 taps, 4 readings in 2 blocks of each of 3 stages."""
    cost = cost_of("nnmamba", 1, 16, PAPER | {"mixer": "none"}, CUBE)
    depthwise = sum(8 * 4 * (2 * 64 * 2**i) * 32**3 / 8**i for i in range(3)) / 1e9
    assert cost.conv_gmacs == pytest.approx(137.81 - depthwise, abs=0.006)
    assert cost.scans == cost.longest_sequence == cost.scan_g == 0


def test_memory_is_that_of_a_hand_count() -> None:
    """conv -> ReLU -> conv on 8^3 voxels, 2 -> 4 -> 3 channels, all of one patch in float32.

    After the forward pass there are the input (2), what the ReLU gave (4), and the output (3). The peak comes
    in the backward pass of the ReLU: the output's gradient (3) and the ReLU's (4) have joined, it makes its
    input's (4), and there are the gradients of the second convolution, 4 * 3 + 3 numbers.
    """
    network = nn.Sequential(nn.Conv3d(2, 4, 1), nn.ReLU(), nn.Conv3d(4, 3, 1)).to("meta")
    cost = network_cost(network, 2, (8, 8, 8), batch_size=1)
    assert cost.activations_gib * 2**30 == (2 + 4 + 3) * 8**3 * 4
    parameters = 2 * 4 + 4 + 4 * 3 + 3
    assert cost.parameters == parameters
    peak = (2 + 4 + 3 + 3 + 4 + 4) * 8**3 * 4 + (4 * 3 + 3) * 4
    assert cost.training_gib * 2**30 == peak + (4 + 8) * parameters
    assert cost.gmacs * 1e9 == (2 * 4 + 4 * 3) * 8**3
    assert cost.gflops == 2 * cost.gmacs


def test_checkpointing_halves_what_training_needs() -> None:
    plain = cost_of("nnmamba", 4, 4, {}, (64, 64, 64))
    checkpointed = cost_of("nnmamba", 4, 4, {"gradient_checkpointing": True}, (64, 64, 64))
    assert checkpointed.activations_gib < 0.15 * plain.activations_gib
    assert checkpointed.training_gib < 0.7 * plain.training_gib
    assert checkpointed.gmacs == plain.gmacs


def test_memory_grows_with_the_batch() -> None:
    one, two = (cost_of("nnmamba_v1", 4, 4, {}, (64, 64, 64), batch) for batch in (1, 2))
    assert two.activations_gib == pytest.approx(2 * one.activations_gib, rel=0.05)
    assert two.conv_gmacs == one.conv_gmacs


class _Attention(nn.Module):
    def __init__(self, learned_mask: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, device="meta")
        self.mask = nn.Parameter(torch.zeros(4096, 4096, device="meta")) if learned_mask else None

    def forward(self, x):
        tokens = self.linear(x.flatten(2).transpose(1, 2))[:, None]
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=self.mask)


def test_attention_keeps_no_matrix_of_all_pairs_unless_its_mask_is_learned() -> None:
    """Of 4096 tokens, the matrix has 64 MiB in float32; tokens of 8 channels and all else a few MiB."""
    matrix = 4096**2 * 4 / 2**30
    fused = network_cost(_Attention(False), 8, (16, 16, 16), 1)
    assert fused.training_gib < matrix / 10
    assert fused.product_gmacs == pytest.approx((2 * 4096**2 * 8 + 4096 * 8**2) / 1e9)
    assert network_cost(_Attention(True), 8, (16, 16, 16), 1).activations_gib > matrix
