"""What a recipe costs before there is any data: its network counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.networks.cost import Cost, network_cost
from mambamed.recipe import Recipe, dump_recipe
from mambamed.run.folder import Run
from mambamed.run.model import input_channels, make_network
from mambamed.run.training_cost import TrainingCost


@dataclass(frozen=True)
class RecipeCost:
    """A resolved recipe and what its network costs."""

    recipe: str
    text: str  # YAML with every default filled in, without the keys of the split that have no effect
    network: str
    patch_size: tuple[int, ...]  # this and the batch size are those of a training step
    batch_size: int
    # parameters, gflops, scan_g, longest_sequence, training_gib: see `networks.cost.Cost`
    parameters: int
    gflops: float
    scan_g: float
    longest_sequence: int
    training_gib: float
    paper: dict[str, float | str]  # the paper's own numbers, as the recipe quotes them
    training: TrainingCost | None = None  # of the whole training on this device, if it was measured
    next_command: str = ""


def recipe_cost(recipe: Recipe, run: Run | None = None) -> RecipeCost:
    """Build a recipe's network on the meta device and count; `run` is the one it means on a dataset, if any.

    Raises RecipeError: the recipe leaves channels, labels or patch size to the dataset, or its network cannot
    be built.
    """
    patch, batch = recipe.training.patch_size, recipe.training.batch_size or 2
    if run is not None:
        patch, batch = run.plan.patch_size, run.plan.batch_size
    if patch is None:
        raise RecipeError(f"recipe {recipe.name}: training.patch_size: missing. Add it, or use -d PREPARED.")
    manifest = manifest_of(recipe) if run is None else run.manifest
    with torch.device("meta"):
        network = make_network(recipe, manifest)
    cost: Cost = network_cost(network, input_channels(recipe, manifest), patch, batch)
    unused = {"train", "val", "test"} if recipe.dataset.split.train is None else {"folds"}
    return RecipeCost(
        recipe=recipe.name,
        text=dump_recipe(recipe, exclude={"dataset": {"split": unused}}),
        network=recipe.network.name,
        patch_size=patch,
        batch_size=batch,
        parameters=cost.parameters,
        gflops=cost.gflops,
        scan_g=cost.scan_g,
        longest_sequence=cost.longest_sequence,
        training_gib=cost.training_gib,
        paper=dict(recipe.paper),
    )


def manifest_of(recipe: Recipe) -> DatasetManifest:
    """The manifest that a recipe describes by itself.

    Raises RecipeError: it leaves channels, or what is to be found, to the dataset.
    """
    wanted = recipe.dataset
    if not wanted.channels or not (wanted.labels or wanted.landmarks or wanted.classes):
        raise RecipeError(f"recipe {recipe.name}: dataset.channels or dataset.labels: missing. Add it.")
    return DatasetManifest.of(
        name=recipe.name,
        channels=dict(wanted.channels),
        labels=dict(wanted.labels or {}),
        regions=dict(wanted.regions or {}),
        landmarks=tuple(wanted.landmarks or ()),
        classes=tuple(wanted.classes or ()),
    )
