"""Every network of the table, small enough to test."""

import pytest
import torch
from torch import nn

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
