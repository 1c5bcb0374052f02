"""ResUNet, ResNet and DenseNet: against what is public of them.

MONAI's ResNet and DenseNet serve as reference: same weights, same answer. Published counts of the 3D forms
differ by the stem's stride and the biases of shortcuts, neither of which the paper has.
"""

import pytest
import torch
from monai.networks import nets
from torch import nn

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.ssm import Mamba


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(name: str, inputs: int, outputs: int, **options) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, inputs, outputs, **options)


def same_order(theirs: nn.Module, ours: nn.Module) -> dict[str, torch.Tensor]:
    """Their tensors under our names: both list them in the order of computation."""
    pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
    weights = {}
    for (name, own), tensor in pairs:
        assert own.shape == tensor.shape, name
        weights[name] = tensor
    return weights


def test_resunet_is_nnmamba_v1_for_landmarks_without_its_mamba() -> None:
    """architectures.md counts 15.191 M of that; a LayerNorm and a Mamba of width 32 are left out."""
    left_out = 2 * 32 + count(Mamba(32))
    options = {"head": "paper", "deep_supervision": False}
    ours = count(on_meta("resunet", 1, 6, **options))
    assert round((ours + left_out) / 1e6, 3) == 15.191
    assert ours == count(on_meta("nnmamba_v1", 1, 6, mixer="none", **options))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_has_the_parameters_of_the_paper(depth) -> None:
    theirs = getattr(nets, f"resnet{depth}")
    with torch.device("meta"):
        reference = theirs(spatial_dims=3, n_input_channels=1, num_classes=2, bias_downsample=False)
    assert count(on_meta("resnet", 1, 2, depth=depth)) == count(reference)


@pytest.mark.parametrize("depth", [121, 169, 201, 264])
def test_densenet_has_the_parameters_of_the_paper(depth) -> None:
    with torch.device("meta"):
        reference = getattr(nets, f"DenseNet{depth}")(spatial_dims=3, in_channels=1, out_channels=2)
    assert count(on_meta("densenet", 1, 2, depth=depth)) == count(reference)


@pytest.mark.parametrize(("depth", "block"), [(18, "basic"), (50, "bottleneck")])
def test_resnet_answers_as_monais_with_the_same_weights(depth, block) -> None:
    widths = [8, 16, 32, 64]
    options = {"conv1_t_stride": 2, "n_input_channels": 2, "num_classes": 3, "bias_downsample": False}
    theirs = nets.ResNet(block, [1, 2, 1, 1], widths, **options).eval()
    ours = build_network("resnet", 2, 3, depth=depth, channels=8, blocks=[1, 2, 1, 1]).eval()
    ours.load_state_dict(same_order(theirs, ours))
    x = torch.randn(2, 2, 35, 33, 40)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_densenet_answers_as_monais_with_the_same_weights() -> None:
    theirs = nets.DenseNet(3, 2, 3, init_features=8, growth_rate=4, block_config=(2, 3, 1, 2)).eval()
    ours = build_network("densenet", 2, 3, channels=8, blocks=[2, 3, 1, 2]).eval()
    ours.load_state_dict(same_order(theirs, ours))
    x = torch.randn(2, 2, 64, 32, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "depth"), [("resnet", 121), ("densenet", 50)])
def test_a_depth_that_it_does_not_have_is_refused(name, depth) -> None:
    with pytest.raises(RecipeError, match=rf"network\.depth: {depth} is not one of"):
        build_network(name, 1, 2, depth=depth)
