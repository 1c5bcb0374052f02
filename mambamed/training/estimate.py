"""Estimated memory of a training step, from a network without memory for its weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Triple
from mambamed.networks.cost import network_cost, peak_bytes
from mambamed.recipe import Recipe
from mambamed.run.model import input_channels, make_network
from mambamed.tasks.base import task_class, task_for

GIB = 2**30
TARGET_BYTES = 8  # per voxel
_HALF = 0.6  # of float32's memory that bf16 and fp16 need: weights, norms and scans stay in float32


def without_numbers(recipe: Recipe, manifest: DatasetManifest) -> nn.Module:
    """The network of a recipe without memory for its weights."""
    with torch.device("meta"):
        return make_network(recipe, manifest)


def weights_gib(network: nn.Module) -> float:
    """Memory of the weights in float32, GiB."""
    return 4 * sum(p.numel() for p in network.parameters()) / GIB


def step_gib(
    recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int, precision: str = "fp32"
) -> float:
    """Memory of a training step with loss, targets and the average of the weights, GiB."""
    network = without_numbers(recipe, manifest)
    cost = network_cost(network, input_channels(recipe, manifest), patch, batch)
    half = _HALF if precision in {"bf16", "fp16"} else 1.0
    weights = weights_gib(network)
    # The largest memory is needed in the backward pass or, with many outputs, in the loss, which is float32.
    in_loss = cost.activations_gib * half + 3 * weights + loss_bytes(recipe, manifest, patch, batch) / GIB
    estimate = max(cost.training_gib * half, in_loss) + bool(recipe.training.ema) * weights
    if task_class(recipe.task).labels_voxels:
        estimate += TARGET_BYTES * batch * math.prod(patch) / GIB
    return estimate


def loss_bytes(recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int) -> int:
    """Memory of the loss of masks and its gradient, without that of coarser depths; 0 for other tasks."""
    if not task_class(recipe.task).labels_voxels:
        return 0
    # The boundary loss computes distances on the CPU.
    loss = recipe.training.loss.model_copy(update={"boundary": 0.0})
    training = recipe.training.model_copy(update={"loss": loss})
    task = task_for(recipe.model_copy(update={"training": training}), manifest)
    with torch.device("meta"):
        logits = torch.zeros(batch, task.outputs, *patch, requires_grad=True)
        target = torch.zeros(batch, *patch, dtype=torch.int64)
    return peak_bytes(lambda: task.loss(logits, target).backward(), [logits, target])
