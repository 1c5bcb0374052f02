"""Helpers to compare a network with MONAI's."""

import torch
from torch import nn

from mambamed.networks import build_network


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
