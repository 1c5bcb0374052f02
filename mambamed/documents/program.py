"""model.onnx.json, next to an exported program: all that another program needs to use the network."""

from __future__ import annotations

from typing import ClassVar, Literal

from mambamed.documents.base import Count, Document, Fraction, Model, NotNegative, Positive, Size
from mambamed.documents.ensemble import MaskPostprocess
from mambamed.documents.plan import Normalization, Spacing, Triple
from mambamed.documents.prepared import Sha256
from mambamed.documents.splits import FoldName
from mambamed.errors import MambamedError, ModelError
from mambamed.recipe.schema import ChannelKind, Crop, TaskName


class ProgramFile(Model):
    """A file of the program."""

    name: str
    bytes: Count
    sha256: Sha256


class Preparation(Model):
    """From the channels of a file to the input of the network, in this order."""

    axes: Literal["ras", "stored"]
    """Axes are permuted and mirrored to be closest to RAS+, or kept as the file stores them."""
    crop: Crop
    """Crop to the bounding box of the voxels that are not zero in some channel, or not at all."""
    normalization: tuple[Normalization, ...]
    """One per channel; measured on the cropped image before it is resampled."""
    keep_spacing: bool
    """Do not resample."""
    spacing_mm: Spacing
    """Voxel spacing (x, y, z) to which images are resampled, by cubic B-splines."""


class Windows(Model):
    """How patches of the prepared image are passed to the network, and how its outputs are combined."""

    kind: Literal["sliding", "centered"]
    """Sliding windows over the whole image, or a single patch around the center (classification)."""
    patch_size: Triple
    """Voxels (x, y, z); a smaller image is padded with zeros at both ends."""
    overlap: Fraction
    """Fraction of a window that its neighbor along an axis covers at least."""
    gaussian: bool
    """Weight the outputs by a Gaussian, of standard deviation patch / 8 around its center."""
    mirror_axes: tuple[Count, ...]
    """Spatial axes (0, 1, 2) of which all combinations are mirrored; their outputs are averaged."""
    mirror_order: tuple[Count, ...] | None
    """Output channel that each one becomes in an image mirrored along axis 0; null: the same."""
    like_nnunet: bool
    """Conventions of an imported nnU-Net: the Gaussian is centered at voxel patch // 2, and logits are
    resampled along a coarse axis by the nearest plane."""


class Masks(Model):
    """From logits to a label map."""

    labels: dict[str, Count]
    regions: dict[str, tuple[Count, ...]]
    """Region -> labels that it unites; empty: labels exclude each other."""
    decision: Literal["largest", "positive"]
    """The label with the largest logit, or every region with a positive one."""
    values: tuple[Count, ...]
    """Label value that output channel k writes."""
    order: tuple[Count, ...]
    """Order in which the channels of regions are written, later ones over earlier ones."""
    postprocess: MaskPostprocess


class Points(Model):
    """From heatmaps to landmarks."""

    names: tuple[str, ...]
    reading: Literal["softmax", "sigmoid", "plain"]
    """Probabilities of a heatmap: over all voxels and "absent", of each voxel, or the values themselves."""
    method: Literal["gaussian", "soft-argmax", "argmax"]
    """How the position of a peak is computed."""
    sigma_voxels: tuple[Positive, Positive, Positive]
    """Width of a peak."""
    offsets: bool
    """Whether 3 further channels per landmark hold the offset to its point, in sigmas."""
    thresholds: dict[str, NotNegative]
    """Landmark -> score below which it is absent."""


class Classes(Model):
    """From logits to class probabilities: softmax(logits / temperature)."""

    names: tuple[str, ...]
    temperature: Positive
    threshold: Fraction | None
    """For two classes: probability from which the second one is predicted."""


class Program(Document):
    """A network as a program that runs without mambamed, and how it is used."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Export the run again."

    version: str
    """Of mambamed."""
    run: str
    task: TaskName
    network: str
    program: Literal["onnx", "torch-export"]
    opset: Size | None = None
    """Of ONNX."""
    files: tuple[ProgramFile, ...]
    """The program, then the file of its weights if they exceed 2 GB."""
    folds: tuple[FoldName, ...]
    """Folds whose logits the program averages."""
    checkpoint: Literal["best", "last"]
    largest_difference: NotNegative
    """From the output of mambamed for random input, as a fraction of the range of the outputs."""
    input: str = "image"
    """Name of the input, float32 of shape (batch, channels, x, y, z): any batch size, the windows' patch."""
    output: str = "logits"
    """Name of the output, float32."""
    outputs: Size
    """Number of output channels."""
    channels: dict[str, ChannelKind]
    """Input channel -> kind of intensity, in the order of the network's input."""
    preparation: Preparation
    windows: Windows
    masks: Masks | None = None
    points: Points | None = None
    classes: Classes | None = None
