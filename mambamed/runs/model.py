"""From a run folder to a network that predicts: rebuilt from recipe + plan + manifest."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mambamed.cases import DatasetManifest
from mambamed.errors import ModelError
from mambamed.networks import build_network
from mambamed.recipe import Recipe
from mambamed.runs.checkpoint import load_weights, read_checkpoint
from mambamed.runs.folder import Run
from mambamed.tasks.base import Task, task_for
from mambamed.tasks.covariates import WithCovariates, covariate_count


def make_task(run: Run) -> Task:
    """What is asked of the run's network."""
    return task_for(run.recipe, run.manifest, run.plan.spacing_mm)


def make_network(recipe: Recipe, manifest: DatasetManifest) -> nn.Module:
    """The recipe's network for the manifest's channels and the task's outputs, freshly initialized.

    Raises:
        RecipeError: no such network, or an option that it does not have.
    """
    outputs, channels = task_for(recipe, manifest).outputs, len(manifest.channels)
    network = build_network(recipe.network.name, channels, outputs, **recipe.network.options)
    numbers = covariate_count(recipe.dataset.covariates)
    return WithCovariates(network, channels, numbers, outputs) if numbers else network


def input_channels(recipe: Recipe, manifest: DatasetManifest) -> int:
    """Channels of what the recipe's network reads: the image's, then one a number of the covariates."""
    return len(manifest.channels) + covariate_count(recipe.dataset.covariates)


def load_network(
    run_folder: Path, fold: int, checkpoint: str = "best", device: torch.device | str = "cpu"
) -> tuple[nn.Module, Run]:
    """A trained network, ready to predict, and the run that it comes from.

    Args:
        run_folder: what `train` wrote.
        fold: index of the fold.
        checkpoint: "best" or "last". Where training kept a moving average of the weights, that is what is
            loaded in both cases.
        device: where the network goes.

    Returns:
        The network in evaluation mode, without gradients, and the run.

    Raises:
        ModelError: no such run, fold or checkpoint, or weights that do not fit the recipe's network.
    """
    run = Run.open(run_folder)
    path = run.checkpoint(fold, checkpoint)
    if not path.is_file():
        there = ", ".join(str(f) for f in run.folds) or "none"
        raise ModelError(f"{path}: no such checkpoint; folds trained in {run_folder}: {there}")
    content = read_checkpoint(path, parts=("network", "ema"))
    network = make_network(run.recipe, run.manifest)
    load_weights(network, content.part("ema") or content.part("network"), path)
    return network.to(device).eval().requires_grad_(False), run
