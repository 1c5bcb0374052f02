"""Every network of the table, small enough to test."""

import pytest
import torch
from torch import nn

from mambamed.networks import NETWORKS, build_network

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
    "unetr": {"patch_size": [32, 32, 32], "channels": 4, "hidden": 24, "mlp": 32, "heads": 4},
    "swin_unetr": {"channels": 12, "depths": [2, 1, 1, 1]},
    "segresnet": {"channels": 8, "blocks": [1, 1, 1], "up_blocks": [1, 1]},
    "mednext": {"size": "S", "channels": 4},
    "vnet": {"dropout": 0.0},
    "vit": {"patch_size": [32, 32, 32], "hidden": 24, "mlp": 32, "layers": 2, "heads": 4},
}
# networks of classification: (B, classes) rather than a grid
POOLED = {"nnmamba_classifier", "nnmamba_v1_classifier", "resnet", "densenet", "vit"}
ODD = (17, 20, 9)
# MONAI's take seconds a test even when small; by default only what is cheap is asked of them
MONAIS = {name for name, place in NETWORKS.items() if "baselines" in place}
MONAIS_SLOWLY = [pytest.param(name, marks=pytest.mark.slow) if name in MONAIS else name for name in NETWORKS]


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, 2, 3, **(SMALL.get(name, {}) | options))
