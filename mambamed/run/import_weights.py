"""Published weights as a run folder that `predict` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mambamed.documents.plan import Plan, per_case
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError, RecipeError
from mambamed.io.atomic import write_bytes
from mambamed.io.lock import reading
from mambamed.networks import NETWORKS, default_of, options_of
from mambamed.networks.parts.blocks import AxisOrder
from mambamed.networks.public_names import (
    COUNTER,
    Translation,
    has_public_names,
    public_axis_order,
    settle_options,
    translate,
)
from mambamed.preparation.store import PreparedDataset
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import encode_checkpoint, load_weights
from mambamed.run.cost import manifest_of
from mambamed.run.folder import Run, check_writing, create_run, planned_run, writing
from mambamed.run.model import make_network
from mambamed.run.nnunet_model import mirrored_axes
from mambamed.run.tensors import read_tensors
from mambamed.run.torch_files import read_torch_file

_DEEP = "deep_supervision"
_HEADS = (
    "network.deep_supervision: set to true. The file has the heads of deep supervision, which are used in "
    "training alone."
)
_NO_HEADS = (
    "network.deep_supervision: set to false. The file lacks the heads of deep supervision, which are used in "
    "training alone."
)


@dataclass(frozen=True)
class ImportSummary:
    """What was imported."""

    run: Path
    network: str
    tensors: int  # how many tensors of the file it took
    parameters: int  # of the network
    axis_order: str  # of the arrays that the weights were trained on, e.g. zyx
    folds: tuple[FoldName, ...]  # of the run, that were imported
    notes: tuple[str, ...] = ()  # what was changed or assumed, one sentence or two each


def import_weights(
    weights: Path,
    recipe: Recipe,
    output: Path,
    prepared: Path | None = None,
    axis_order: AxisOrder | None = None,
    fold: int = 0,
) -> ImportSummary:
    """Make a run of weights that authors published.

    Args:
        weights: a state dict in safetensors or PyTorch's format, alone or in a checkpoint of nnU-Net.
        recipe: of the network as it was trained.
        output: the run folder; it may be there, with other folds of the same recipe.
        prepared: a prepared dataset, for plan and labels; without one the recipe says them itself.
        axis_order: of the arrays that the weights were trained on; None: as the network's authors read them.
        fold: which fold of the run they become.

    Raises:
        ModelError: the file cannot be read without running code, or its keys do not fit; all are named.
        RecipeError: a network without a table of public names; a recipe that lacks what a plan needs.
    """
    name = recipe.network.name
    if not has_public_names(name):
        raise RecipeError(
            f"recipe {recipe.name}: published weights can be read for "
            f"{', '.join(filter(has_public_names, NETWORKS))}, not for {name}."
        )
    if recipe.dataset.covariates:
        raise RecipeError(
            f"recipe {recipe.name}: dataset.covariates: published weights have none. Remove the key."
        )
    axis_order = axis_order or public_axis_order(name)
    check_writing(output, [fold], [weights])
    public = read_state_dict(weights)
    options, notes = settle_options(name, recipe.network.options, public)
    if (allowed := mirrored_axes(weights)) is not None:
        axes = tuple(sorted(axis_order[axis] for axis in allowed))
        if {*axes} != {*recipe.training.augment.mirror}:
            recipe = _mirroring(recipe, axes)
            notes += (f"mirrored axes: {', '.join(axes) or 'none'}, as in the checkpoint.",)
    if axis_order == "zyx" and "axis_order" in options_of(name):
        options["axis_order"] = "zyx"
    if prepared is None:
        plan, manifest = plan_of(recipe), manifest_of(recipe)
    else:
        with reading(prepared):
            dataset = PreparedDataset.open(prepared)
        plan, manifest = dataset.plan, dataset.manifest

    def built_with(options: Mapping[str, Any]) -> tuple[Run, nn.Module, Translation]:
        run = planned_run(_with_options(recipe, options), plan, manifest, output, as_trained=True)
        network = make_network(run.recipe, run.manifest)
        return run, network, translate(name, network, public, axis_order)

    run, network, translation = built_with(options)
    if translation.faults and _DEEP in options_of(name):
        # The heads of training alone may be in the file or not; the output is the same.
        deep = not options.get(_DEEP, default_of(name, _DEEP))
        other = built_with({**options, _DEEP: deep})
        if not other[2].faults:
            run, network, translation = other
            notes += (_HEADS if deep else _NO_HEADS,)
    if translation.faults:
        count, lines = len(translation.faults), "\n  ".join(translation.faults)
        raise ModelError(
            f"{weights}: {count} keys do not fit {name} as recipe {recipe.name} builds it:\n  {lines}\n"
            "set the recipe's network options (--set network.…) as the weights were trained"
        )
    counters = {key: count for key, count in network.state_dict().items() if key.endswith(COUNTER)}
    load_weights(network, counters | translation.weights, weights)  # some files lack the counters
    with writing(output, [fold], [weights]):
        create_run(run, folds=[fold])
        write_fold(run, fold, network, {"imported_from": weights.name, "axis_order": axis_order})
    parameters = sum(p.numel() for p in network.parameters())
    notes += translation.notes
    return ImportSummary(output, name, len(translation.weights), parameters, axis_order, (fold,), notes)


def write_fold(run: Run, fold: FoldName, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write imported weights as both checkpoints of a fold.

    Raises RecipeError: the fold has other weights.
    """
    tensors = {f"network.{key}": tensor for key, tensor in network.state_dict().items()}
    content = encode_checkpoint(tensors, {"step": 0, "epoch": 0, **facts})
    files = [run.checkpoint(fold, checkpoint) for checkpoint in ("best", "last")]
    if any(file.is_file() and file.read_bytes() != content for file in files):
        raise RecipeError(
            f"{run.fold_folder(fold)}: already contains a trained model. Give another -o or --fold."
        )
    for file in files:
        write_bytes(file, content)


def _mirroring(recipe: Recipe, axes: tuple[str, ...]) -> Recipe:
    """The recipe with the axes that are mirrored."""
    training = recipe.training
    augment = training.augment.model_copy(update={"mirror": axes})
    return recipe.model_copy(update={"training": training.model_copy(update={"augment": augment})})


def _with_options(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """A recipe with other options of its network."""
    network = type(recipe.network).model_validate({"name": recipe.network.name, **options})
    return recipe.model_copy(update={"network": network})


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name; nothing of the file is ever run.

    Raises ModelError: no such file, not one of weights, or one that holds more than data.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Give the weights that the authors published.")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    _, tensors = read_tensors(path)
    if not tensors:
        raise ModelError(f"{path}: contains no tensor. Give the weights that the authors published.")
    return tensors


def plan_of(recipe: Recipe) -> Plan:
    """The plan that a recipe describes by itself, without a dataset.

    Raises RecipeError: it leaves spacing or patch size to the dataset, or has a CT channel, whose window is
    measured on one.
    """
    spacing, patch = recipe.preprocess.spacing, recipe.training.patch_size
    scheme = recipe.preprocess.normalize
    kinds = (recipe.dataset.channels or {}).values()
    lacks = [
        *(["preprocess.spacing in mm"] if isinstance(spacing, str) else []),
        *(["training.patch_size"] if patch is None else []),
        *(["the window of CT"] if scheme == "ct" or (scheme == "auto" and "ct" in kinds) else []),
    ]
    if isinstance(spacing, str) or patch is None or lacks:
        raise RecipeError(
            f"recipe {recipe.name}: does not define {', '.join(lacks)}. Give a prepared dataset with -d."
        )
    x, y, z = (float(v) for v in spacing)
    scheme = "zscore" if scheme == "auto" else scheme
    return Plan(
        spacing_mm=(x, y, z),
        shape_median=patch,
        patch_size=patch,
        batch_size=recipe.training.batch_size or 2,
        crop=recipe.preprocess.crop,
        normalization=tuple(per_case(scheme) for _ in kinds),
    )
