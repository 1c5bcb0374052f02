"""Every network of the table, small enough to test."""

import torch
from torch import nn

from mambamed.networks import build_network

# name -> options that make it small enough to test
SMALL: dict[str, dict] = {
    "nnmamba": {"channels": 8},
    "nnmamba_classifier": {"channels": 8, "dropout": 0.0},
    "nnmamba_v1": {"channels": 8},
    "nnmamba_v1_classifier": {"channels": 8},
    "segmamba": {"channels": 4, "depths": [1, 1, 1, 1]},
    "mamba_unet": {"channels": 4, "stages": 3},
    "umamba": {"channels": 4, "stages": 3},
    "nnunet": {"channels": 4, "stages": 3},
    "nnunet_resenc": {"channels": 4, "stages": 3},
    "resunet": {"channels": 8},
    "resnet": {"channels": 8},
    "densenet": {"channels": 8, "blocks": [2, 2, 2, 2]},
}
# networks of classification: (B, classes) rather than a grid
POOLED = {"nnmamba_classifier", "nnmamba_v1_classifier", "resnet", "densenet"}
ODD = (17, 20, 9)


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, 2, 3, **(SMALL.get(name, {}) | options))
