"""From a run folder to a network that predicts: rebuilt from recipe + plan + manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError, RecipeError
from mambamed.io.members import Source
from mambamed.networks import build_network
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import load_weights, read_checkpoint
from mambamed.run.folder import Run
from mambamed.tasks.base import task_for
from mambamed.tasks.covariates import WithCovariates, covariate_count


def make_network(recipe: Recipe, manifest: DatasetManifest) -> nn.Module:
    """The recipe's network for the manifest's channels and the task's outputs, freshly initialized.

    Raises RecipeError: no such network, or an option that it does not have.
    """
    outputs, channels = task_for(recipe, manifest).outputs, len(manifest.channels)
    network = build_network(recipe.network.name, channels, outputs, **recipe.network.options)
    numbers = covariate_count(recipe.dataset.covariates)
    return WithCovariates(network, channels, numbers, outputs) if numbers else network


def input_channels(recipe: Recipe, manifest: DatasetManifest) -> int:
    """Channels of what the recipe's network reads: the image's, then one per number of the covariates."""
    return len(manifest.channels) + covariate_count(recipe.dataset.covariates)


class _NoLargerThan(TorchFunctionMode):
    """While a network is built for weights that are there, refuse to take memory that they cannot fill.

    A recipe from a stranger may name a width that no machine can hold; torch would begin to.
    """

    _SIZED = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
    _COUNTED = (torch.arange, torch.linspace, torch.eye)

    def __init__(self, weights: Mapping[str, Tensor], path: Source) -> None:
        super().__init__()
        # Buffers that are not kept, and what building throws away, are more than the weights themselves.
        self._left, self._path = 4 * sum(tensor.numel() for tensor in weights.values()) + 2**24, path

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in self._SIZED:
            size = args[0] if args and isinstance(args[0], Sequence) else (kwargs or {}).get("size", args)
            self._take(math.prod(n for n in size if isinstance(n, int)))
        elif func in self._COUNTED:
            self._take(max((abs(n) for n in args if isinstance(n, (int, float))), default=0))
        return func(*args, **(kwargs or {}))

    def _take(self, numbers: float) -> None:
        self._left -= numbers
        if self._left < 0:
            raise ModelError(
                f"{self._path}: weights of another network than the recipe's, which is many times larger. "
                "Give the run that they belong to."
            )


def load_network(
    run: Run, fold: FoldName, checkpoint: str = "best", device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a trained network for prediction.

    Args:
        checkpoint: "best" or "last". If training kept a moving average of the weights, the average is loaded
            in both cases.
        device: device the network is moved to.

    Returns: The network in evaluation mode, without gradients.

    Raises ModelError: the fold or checkpoint does not exist, or its weights do not match the recipe's
    network.
    """
    path = run.weights(fold, checkpoint)
    content = read_checkpoint(path, parts=("network", "ema"))
    weights = content.part("ema") or content.part("network")
    try:
        with _NoLargerThan(weights, path):
            network = make_network(run.recipe, run.manifest)
    except RecipeError as error:
        raise ModelError(f"{run.find('recipe.yaml') or run.root}: {error}") from error
    load_weights(network, weights, path)
    return network.to(device).eval().requires_grad_(False)
