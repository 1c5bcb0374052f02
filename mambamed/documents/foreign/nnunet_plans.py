"""plans.json and dataset.json of a model of nnU-Net 2: how networks are built, what they read and answer.

Both documents lie in a model's folder, and in its checkpoints (`init_args`). Plans before nnU-Net 2.4 have no
`architecture`, but the keys of `OldArchitecture`.

Source: nnU-Net's documentation/explanation_plans_files.md and dataset_format.md, and files of its versions
2.0 to 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, PlainValidator

from mambamed.documents.base import Finite, ForeignDocument, Positive, Size
from mambamed.documents.foreign.values import Labels, Text, Whole
from mambamed.errors import MambamedError, ModelError
from mambamed.numerals import is_whole
from mambamed.schema_errors import shortened

_REMEDY = "Copy the file again, or give the folder that nnU-Net trained into."


def _sizes(value: Any, most: int = 2**12) -> Any:
    """A positive whole number, or a list of such numbers or lists, as tuples."""
    if isinstance(value, list | tuple) and value:
        return tuple(_sizes(item, most) for item in value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"expected whole numbers from 1 to {most}, got {shortened(value)}")
    return value


def _counts(value: Any) -> Any:
    """The same, of layers."""
    return _sizes(value, most=100)


def _numbered(named: dict[str, str]) -> dict[str, str]:
    if wrong := [key for key in named if not is_whole(key)]:
        raise ValueError(f"expected the numbers of channels as keys, got {shortened(wrong[0])}")
    return named


PerStage = Annotated[int | tuple[int, ...], PlainValidator(_sizes)]
Layers = Annotated[int | tuple[int, ...], PlainValidator(_counts)]
Stages = Annotated[int, Field(ge=2, le=20)]
PerStageAndAxis = Annotated[int | tuple[int | tuple[int, ...], ...], PlainValidator(_sizes)]


def _is_permutation(axes: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"expected 0, 1 and 2 in some order, got {list(axes)}")
    return axes


class _OfModel(ForeignDocument):
    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = _REMEDY


class ArchitectureOptions(_OfModel):
    """Arguments of the network's class; `model_extra` holds those without a field here."""

    model_config = ConfigDict(extra="allow")

    n_stages: Stages
    features_per_stage: PerStage
    kernel_sizes: PerStageAndAxis
    strides: PerStageAndAxis
    blocks: Layers = Field(validation_alias=AliasChoices("n_conv_per_stage", "n_blocks_per_stage"))
    n_conv_per_stage_decoder: Layers
    conv_op: str | None = None
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None


class Architecture(_OfModel):
    """The class of the network and its arguments."""

    network_class_name: str
    arch_kwargs: ArchitectureOptions


class OldArchitecture(_OfModel):
    """The network in the configurations of early plans."""

    class_name: str = Field(validation_alias="UNet_class_name")
    base_features: Size = Field(validation_alias="UNet_base_num_features")
    most_features: Size = Field(validation_alias="unet_max_num_features")
    convolutions: tuple[Size, ...] = Field(validation_alias="n_conv_per_stage_encoder")
    decoder_convolutions: tuple[Size, ...] = Field(validation_alias="n_conv_per_stage_decoder")
    strides: PerStageAndAxis = Field(validation_alias="pool_op_kernel_sizes")
    kernels: PerStageAndAxis = Field(validation_alias="conv_kernel_sizes")

    def as_new(self) -> dict[str, Any]:
        """The same network as new plans describe it."""
        count = len(self.convolutions)
        options = {
            "n_stages": count,
            "features_per_stage": [min(self.base_features * 2**i, self.most_features) for i in range(count)],
            "kernel_sizes": self.kernels,
            "strides": self.strides,
            "n_conv_per_stage": self.convolutions,
            "n_conv_per_stage_decoder": self.decoder_convolutions,
            "conv_op": "Conv3d",
            "conv_bias": True,
            "norm_op": "InstanceNorm3d",
            "nonlin": "LeakyReLU",
        }
        return {"network_class_name": self.class_name, "arch_kwargs": options}


class Configuration(_OfModel):
    """A configuration, e.g. 3d_fullres; lists per axis are in the order of `transpose_forward`."""

    patch_size: tuple[Size, ...]
    batch_size: Size
    spacing: tuple[Positive, ...]
    median_image_size_in_voxels: tuple[Positive, ...]
    preprocessor_name: str
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    previous_stage: str | None = None
    architecture: Architecture


class CtProperties(_OfModel):
    """Intensities of a channel within the foreground of the training cases, as CTNormalization reads them."""

    mean: Finite
    std: Finite
    percentile_00_5: Finite
    percentile_99_5: Finite


class Plans(_OfModel):
    """plans.json."""

    dataset_name: Text
    plans_name: Text
    image_reader_writer: str
    transpose_forward: Annotated[tuple[int, ...], AfterValidator(_is_permutation)]
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    intensities: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        ),
    )

    def configuration(self, name: str, where: str) -> Configuration:
        """A configuration with what it inherits.

        Raises:
            ModelError: there is no such configuration, or it has faults; `where` names the document.
        """
        content = self._inherited(name, where, ())
        where = f"{where}: configurations.{name}"
        if "architecture" not in content:
            content = {**content, "architecture": OldArchitecture.checked(content, where).as_new()}
        return Configuration.checked(content, where)

    def _inherited(self, name: str, where: str, below: tuple[str, ...]) -> Mapping[str, Any]:
        if name not in self.configurations or name in below:
            known = ", ".join(self.configurations)
            fact = "inherits from itself" if name in below else f"expected one of {known}, got {name!r}"
            raise ModelError(f"{where}: configurations: {fact}. {_REMEDY}")
        own = self.configurations[name]
        parent = own.get("inherits_from")
        return {**self._inherited(str(parent), where, (*below, name)), **own} if parent else own


class ModelDataset(_OfModel):
    """dataset.json: channels, labels, and the labels that regions write, in the order of `labels`."""

    channel_names: Annotated[dict[str, Text], Field(min_length=1), AfterValidator(_numbered)] = Field(
        validation_alias=AliasChoices("channel_names", "modality")
    )
    labels: Labels
    regions_class_order: tuple[Whole, ...] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels in the order of their numbers; a name that comes again gets its number."""
        names: list[str] = []
        for number in sorted(self.channel_names, key=int):
            name = self.channel_names[number] or f"channel {number}"
            names.append(f"{name} {number}" if name in names else name)
        return tuple(names)
