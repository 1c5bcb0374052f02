"""Models of nnU-Net 2 as runs: network, preparation, labels and mirroring come from the files of the model.

nnU-Net's arrays are (z, y, x) in the order that the file stores, or that is closest to RAS+ if the reader
reorients, and then transposed (`transpose_forward`). Ours are (x, y, z), so that kernels and all lists per
axis are permuted once, here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from mambamed.cases import IGNORE
from mambamed.documents.base import validated
from mambamed.documents.foreign.nnunet_plans import ArchitectureOptions, CtProperties
from mambamed.documents.foreign.values import labels_and_regions
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Ct, Normalization, Plan, per_case
from mambamed.documents.splits import FoldName
from mambamed.errors import DatasetError, ModelError, RecipeError
from mambamed.networks.public_names import translate
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import load_weights
from mambamed.run.folder import Run, check_writing, create_run, planned_run, writing
from mambamed.run.import_weights import ImportSummary, write_fold
from mambamed.run.model import make_network
from mambamed.run.nnunet_model import NnunetCheckpoint, NnunetModel, open_nnunet
from mambamed.schema_errors import shortened, some_of
from mambamed.tasks.segmentation import region_writing
from mambamed.terminal import printable

Item = TypeVar("Item")
Triple = tuple[int, int, int]

# Class in the plans -> our network, by the last part of its name
_NETWORKS = {"PlainConvUNet": "nnunet", "ResidualEncoderUNet": "nnunet_resenc"}
_SCHEMES = {
    "RescaleTo01Normalization": "minmax",
    "RGBTo01Normalization": "rgb",
    "NoNormalization": "none",
}
# Reader -> the axes of its arrays
_READERS: dict[str, Literal["stored", "ras"]] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "SimpleITKIOWithReorient": "ras",
    "NibabelIOWithReorient": "ras",
}
_KEEP = "no_resampling_data_or_seg_to_shape"
_RESAMPLE = "resample_data_or_seg_to_shape"
_AXES = "xyz"
_OTHER = "Import another configuration of the model."


@dataclass(frozen=True)
class _Axes:
    """Our axes among those of nnU-Net's arrays: `order[k]` is the axis there that is x, y or z here."""

    order: Triple

    @classmethod
    def of(cls, transpose_forward: Sequence[int]) -> _Axes:
        x, y, z = (list(transpose_forward).index(axis) for axis in (2, 1, 0))
        return cls((x, y, z))

    @property
    def name(self) -> str:
        """The order of the axes there, e.g. "zyx"."""
        return "".join(_AXES[self.order.index(axis)] for axis in range(3))

    def turned(self, values: Sequence[Item]) -> tuple[Item, Item, Item]:
        """A list per axis of nnU-Net in our order.

        >>> _Axes.of((0, 1, 2)).turned("zyx"), _Axes.of((1, 0, 2)).turned("yzx")
        (('x', 'y', 'z'), ('x', 'y', 'z'))
        """
        x, y, z = (values[axis] for axis in self.order)
        return x, y, z

    def kernel(self, weight: Tensor) -> Tensor:
        """The weight of a convolution, `(out, in, ...)`, with our axes; others as they are."""
        if weight.ndim != 5:
            return weight
        return weight.permute(0, 1, *(2 + axis for axis in self.order)).contiguous()


def import_nnunet(model: Path, output: Path, fold: int | None = None) -> ImportSummary:
    """Make a run of a model of nnU-Net 2, without a recipe.

    Args:
        model: a checkpoint, or a model's folder, all folds of which are imported; see `open_nnunet`.
        output: the run folder; it may be there, with other folds of the same model.
        fold: which fold of the run a single checkpoint becomes (default: its own, else 0).

    Raises:
        ModelError: the files cannot be read without running code, have faults, or need what mambamed does not
            have; it is named.
        RecipeError: the folder holds another run.
    """
    found = open_nnunet(model)
    if fold is not None and model.is_dir():
        raise RecipeError(f"--fold {fold}: {model} is a folder with its own folds. Give one checkpoint.")
    folds = [_number(checkpoint, fold) for checkpoint in found.checkpoints]
    check_writing(output, folds, [model])
    axes = _Axes.of(found.plans.transpose_forward)
    first = found.checkpoints[0].weights()
    norm = "batch" if any(name.endswith("running_mean") for name in first) else "instance"
    run = _run_of(found, axes, norm, output)
    network = _network_of(run, found, found.checkpoints[0], axes, first)
    with writing(output, folds, [model]):
        for number, checkpoint in zip(folds, found.checkpoints, strict=True):
            if checkpoint is not found.checkpoints[0]:
                network = _network_of(run, found, checkpoint, axes, checkpoint.weights())
            create_run(run, folds=[number], notes=[_origin(found)])
            facts = {"imported_from": checkpoint.path.name, "axis_order": axes.name}
            write_fold(run, number, network, facts)
    parameters = sum(p.numel() for p in network.parameters())
    name = run.recipe.network.name
    return ImportSummary(output, name, len(first), parameters, axes.name, tuple(folds))


def _number(checkpoint: NnunetCheckpoint, asked: int | None) -> FoldName:
    known = 0 if checkpoint.fold is None else checkpoint.fold
    return known if asked is None else asked


def _origin(found: NnunetModel) -> str:
    words = (found.checkpoints[0].trainer or "unknown", found.plans.plans_name, found.name)
    trainer, plans, configuration = map(printable, words)
    return f"nnU-Net: trainer {trainer}, plans {plans}, configuration {configuration}; see also plan.json"


def _network_of(
    run: Run, found: NnunetModel, checkpoint: NnunetCheckpoint, axes: _Axes, public: dict[str, Tensor]
) -> nn.Module:
    """The network with the weights of a fold; ModelError if a key does not fit."""
    try:
        with torch.device("meta"):  # a width that the file does not have takes no memory
            planned = make_network(run.recipe, run.manifest)
    except RecipeError as error:
        raise ModelError(f"{found.where}: configurations.{found.name}: {error}") from error
    turned = {name: axes.kernel(weight) for name, weight in public.items()}
    translation = translate(run.recipe.network.name, planned, turned, "xyz")
    if translation.faults:
        trainer = f" (trainer {printable(checkpoint.trainer)})" if checkpoint.trainer else ""
        raise ModelError(
            f"{checkpoint.path}: {len(translation.faults)} keys do not fit the plans' network{trainer}: "
            f"{some_of(translation.faults, most=3)}. Give the recipe of its network with --recipe."
        )
    network = make_network(run.recipe, run.manifest)
    load_weights(network, translation.weights, checkpoint.path)
    return network


def _run_of(found: NnunetModel, axes: _Axes, norm: str, output: Path) -> Run:
    """Recipe, plan and manifest of the model."""
    configuration, where = found.configuration, f"{found.where}: configurations.{found.name}"
    if len(configuration.patch_size) != 3:
        fact = f"expected three axes, got {len(configuration.patch_size)}; mambamed has no 2D networks"
        raise ModelError(f"{where}: patch_size: {fact}. {_OTHER}")
    if configuration.previous_stage is not None:
        fact = f"its network reads masks of {configuration.previous_stage}, and mambamed has no cascade"
        raise ModelError(f"{where}: previous_stage: {fact}. {_OTHER}")
    _expect(where, "preprocessor_name", configuration.preprocessor_name, ["DefaultPreprocessor"])
    _expect(found.where, "label_manager", found.plans.label_manager, ["LabelManager"])
    _expect(found.where, "image_reader_writer", found.plans.image_reader_writer, _READERS)
    for key in ("spacing", "median_image_size_in_voxels"):
        if len(getattr(configuration, key)) != 3:
            raise ModelError(f"{where}: {key}: expected three numbers. {_OTHER}")
    manifest = _manifest(found)
    keep = _keeps_spacing(found, where)
    normalization = _normalization(found, where, len(manifest.channels))
    content = {
        "spacing_mm": axes.turned(configuration.spacing),
        "shape_median": [max(1, round(n)) for n in axes.turned(configuration.median_image_size_in_voxels)],
        "patch_size": axes.turned(configuration.patch_size),
        "batch_size": configuration.batch_size,
        "crop": "nonzero",
        "normalization": [each.to_json() for each in normalization],
        "keep_spacing": keep,
        "axes": _READERS[found.plans.image_reader_writer],
        "like_nnunet": True,
    }
    plan = validated(Plan, content, where, ModelError, _OTHER)
    allowed = found.checkpoints[0].mirrored
    mirrored = [name for name, axis in zip(_AXES, axes.order, strict=True) if axis in allowed]
    schemes = {each.scheme for each in normalization}
    values = {
        "name": manifest.name,
        "dataset": {"channels": manifest.channels, "labels": manifest.labels}
        | ({"regions": manifest.regions} if manifest.regions else {}),
        "preprocess": {
            "spacing": "keep" if keep else plan.spacing_mm,
            "normalize": schemes.pop() if len(schemes) == 1 and not schemes & {"minmax", "rgb"} else "auto",
        },
        "network": _network_options(found, axes, norm),
        "training": {
            "patch_size": plan.patch_size,
            "batch_size": plan.batch_size,
            "augment": {"mirror": mirrored},
        },
        "inference": {"tta": "mirror" if mirrored else "none"},
    }
    recipe = validated(Recipe, values, where, ModelError, _OTHER)
    return planned_run(recipe, plan, manifest, output, as_trained=True)


def _manifest(found: NnunetModel) -> DatasetManifest:
    """Channels, labels and regions, in the order of the network's inputs and outputs."""
    dataset, where = found.dataset, found.of_dataset
    labels, regions = labels_and_regions(dataset.labels)
    values = sorted(value for name, value in labels.items() if name != IGNORE)
    if not regions and values != list(range(len(values))):
        raise ModelError(f"{where}: labels: expected consecutive numbers from 0, got {values}. {_OTHER}")
    written: tuple[int, ...] = ()
    if regions:
        written = dataset.regions_class_order or ()
        if len(written) != len(regions):
            fact = f"expected one label per region, {len(regions)}, got {len(written)}"
            raise ModelError(f"{where}: regions_class_order: {fact}. Correct the file.")
        try:
            if region_writing(regions) == (tuple(range(len(regions))), written):
                written = ()
        except DatasetError:
            pass  # the regions need the order of the file
    schemes = found.configuration.normalization_schemes
    kinds = ["ct" if scheme == "CTNormalization" else "mri" for scheme in schemes]
    if len(kinds) != len(dataset.channels):
        fact = f"expected {len(dataset.channels)} entries, one per channel, got {len(kinds)}"
        where = f"{found.where}: configurations.{found.name}"
        raise ModelError(f"{where}: normalization_schemes: {fact}. {_OTHER}")
    try:
        return DatasetManifest.of(
            name=found.plans.dataset_name or found.name,
            source=Path(where),
            channels=dict(zip(dataset.channels, kinds, strict=True)),
            labels=labels,
            regions=regions,
            region_values=written,
        )
    except DatasetError as error:
        raise ModelError(str(error)) from error


def _normalization(found: NnunetModel, where: str, channels: int) -> list[Normalization]:
    configuration = found.configuration
    masked = configuration.use_mask_for_norm
    if len(masked) != channels:
        fact = f"expected {channels} entries, one per channel, got {len(masked)}"
        raise ModelError(f"{where}: use_mask_for_norm: {fact}. {_OTHER}")
    plans: list[Normalization] = []
    for number, scheme in enumerate(configuration.normalization_schemes):
        if scheme == "CTNormalization":
            here = f"{found.where}: foreground_intensity_properties_per_channel.{number}"
            measured = CtProperties.checked(found.plans.intensities.get(str(number)), here)
            low, high = measured.percentile_00_5, measured.percentile_99_5
            content = {"mean": measured.mean, "std": measured.std, "low": low, "high": high}
            plans.append(validated(Ct, content, here, ModelError, _OTHER))
        elif scheme == "ZScoreNormalization":
            plans.append(per_case("zscore_nonzero" if masked[number] else "zscore"))
        else:
            known = ["CTNormalization", "ZScoreNormalization", *_SCHEMES]
            _expect(where, f"normalization_schemes.{number}", scheme, known)
            plans.append(per_case(_SCHEMES[scheme]))
    return plans


def _keeps_spacing(found: NnunetModel, where: str) -> bool:
    """Whether images are not resampled; ModelError if they are in another way than ours."""
    configuration = found.configuration
    if configuration.resampling_fn_data == configuration.resampling_fn_probabilities == _KEEP:
        return True
    for key, order in (("resampling_fn_data", 3), ("resampling_fn_probabilities", 1)):
        _expect(where, key, getattr(configuration, key), [_RESAMPLE])
        expected = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        given = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": False}
        given |= getattr(configuration, f"{key}_kwargs")
        for option, value in given.items():
            wanted = 3 if option == "separate_z_anisotropy_threshold" else expected.get(option)
            if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
                _expect(where, f"{key}_kwargs.{option}", value, [wanted])
    return False


def _network_options(found: NnunetModel, axes: _Axes, norm: str) -> dict[str, Any]:
    """The network of the plans as in a recipe; ModelError if ours cannot be built so."""
    architecture = found.configuration.architecture
    where = f"{found.where}: configurations.{found.name}.architecture"
    name, options = architecture.network_class_name.rpartition(".")[2], architecture.arch_kwargs
    _expect(where, "network_class_name", name, _NETWORKS)
    _check_layers(options, f"{where}.arch_kwargs")
    count = options.n_stages
    return {
        "name": _NETWORKS[name],
        "widths": _per_stage(options.features_per_stage, count),
        "strides": _turned(options.strides, axes, count),
        "kernels": _turned(options.kernel_sizes, axes, count),
        "blocks": _per_stage(options.blocks, count),
        "decoder_blocks": _per_stage(options.n_conv_per_stage_decoder, count - 1),
        "norm": norm,
    }


def _check_layers(options: ArchitectureOptions, where: str) -> None:
    """Raise ModelError for layers that differ from those of our networks."""
    of_norm, of_nonlin = options.norm_op_kwargs or {}, options.nonlin_kwargs or {}
    _expect(where, "conv_op", _last(options.conv_op), ["Conv3d"])
    _expect(where, "conv_bias", options.conv_bias, [True])
    _expect(where, "norm_op", _last(options.norm_op), ["InstanceNorm3d", "BatchNorm3d"])
    _expect(where, "norm_op_kwargs.eps", of_norm.get("eps", 1e-5), [1e-5])
    _expect(where, "nonlin", _last(options.nonlin), ["LeakyReLU"])
    _expect(where, "nonlin_kwargs.negative_slope", of_nonlin.get("negative_slope", 0.01), [0.01])
    further = dict(options.model_extra or {})
    for key in ("dropout_op", "dropout_op_kwargs", "deep_supervision"):  # without effect on predictions
        further.pop(key, None)
    if _last(further.get("block")) == "BasicBlockD":
        del further["block"]
    for key, value in further.items():
        if value is not None and value is not False:
            _expect(where, key, value, [None])


def _per_stage(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def _turned(stages: int | Sequence[int | Sequence[int]], axes: _Axes, count: int) -> list[Any]:
    """One number or three for each stage, in our order of axes."""
    each = [stages] * count if isinstance(stages, int) else stages
    return [axes.turned(n) if not isinstance(n, int) and len(n) == 3 else n for n in each]


def _last(name: Any) -> Any:
    """The class of a dotted name."""
    return name.rpartition(".")[2] if isinstance(name, str) else name


def _expect(where: str, key: str, value: Any, known: Collection[Any]) -> None:
    """Raise ModelError for a value that has no counterpart here."""
    if value not in known:
        names = ", ".join(map(str, known))
        raise ModelError(f"{where}: {key}: expected {names}, got {shortened(value)}. {_OTHER}")
