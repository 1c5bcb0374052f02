"""Estimated memory of a training step, from a network without memory for its weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Triple
from mambamed.networks.cost import peak_bytes, training_memory
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
    weights, activations, training = _network_gib(recipe, manifest, patch, batch)
    half = _HALF if precision in {"bf16", "fp16"} else 1.0
    # The largest memory is needed in the backward pass or, with many outputs, in the loss, which is float32.
    in_loss = activations * half + 3 * weights + loss_bytes(recipe, manifest, patch, batch) / GIB
    estimate = max(training * half, in_loss) + bool(recipe.training.ema) * weights
    if task_class(recipe.task).labels_voxels:
        estimate += TARGET_BYTES * batch * math.prod(patch) / GIB
    return estimate


_counted: dict[str, tuple[float, float, float]] = {}


def _network_gib(
    recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int
) -> tuple[float, float, float]:
    """Weights, activations and peak of a training step of the network alone, GiB.

    Kept for further trainings of this process, e.g. those of `--seeds`, because counting takes seconds.
    """
    inputs, outputs = input_channels(recipe, manifest), task_for(recipe, manifest).outputs
    key = repr((recipe.network.model_dump_json(), len(manifest.channels), inputs, outputs, patch, batch))
    if key not in _counted:
        network = without_numbers(recipe, manifest)
        _counted[key] = (weights_gib(network), *training_memory(network, inputs, patch, batch))
    return _counted[key]


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
