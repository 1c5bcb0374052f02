"""Every network of the table, small enough to test."""

import pytest
import torch
from torch import Tensor, nn

from mambamed.networks import NETWORKS, build_network, network_class, options_of

ODD = (17, 20, 9)
# MONAI's take seconds a test even when small; by default only what is cheap is asked of them
MONAIS = {name for name, place in NETWORKS.items() if "baselines" in place}
MONAIS_SLOWLY = [pytest.param(name, marks=pytest.mark.slow) if name in MONAIS else name for name in NETWORKS]


def small_options(name: str) -> dict:
    """Options that make a network small enough to test: those its class states, else by rule."""
    known = options_of(name)
    by_rule = {"channels": 4 if "stages" in known else 8, "stages": 3, "dropout": 0.0}
    by_rule = {option: value for option, value in by_rule.items() if option in known}
    return getattr(network_class(name), "small", by_rule)


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, 2, 3, **(small_options(name) | options))


def randomized(network: nn.Module) -> nn.Module:
    """The network for inference with noise in every parameter, of its own spread (0.2 if it is constant).

    No zero, one or symmetry of the initial values can then hide a fault.
    """
    random = torch.Generator().manual_seed(2)
    for parameter in network.eval().requires_grad_(False).parameters():
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        parameter.add_(torch.randn(parameter.shape, generator=random) * (spread or 0.2))
    return network


def varied_images(shape: tuple[int, ...]) -> Tensor:
    """`(3, 2, *shape)`: noise around different means, which global pooling keeps."""
    means = torch.tensor([0.0, 3.0, -2.0]).view(3, 1, 1, 1, 1)
    return means + torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(1))


def difference_of(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits `(B, K, ...)`, as a fraction of what varies over images and voxels."""
    mean = expected.mean(dim=[0, *range(2, expected.ndim)], keepdim=True)
    return float((found - expected).abs().max() / (expected - mean).abs().max())
