"""The plans that the papers of nnU-Net, U-Mamba and the Mamba U-Nets used."""

import torch

from mambamed.networks import build_network

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
