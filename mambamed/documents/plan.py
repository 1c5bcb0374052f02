"""plan.json: the preprocessing and the size of the network, as numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from mambamed.documents.base import Document, Model, Size
from mambamed.recipe.schema import Crop, Edge

_MOST_VOXELS = 2**30  # of a patch
_LONGEST_SIDE = 2**12  # images are padded to the patch

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Intensity = Annotated[float, Field(ge=-1e15, le=1e15)]  # far from the end of float32


def _not_too_large(patch: Triple) -> Triple:
    if math.prod(patch) > _MOST_VOXELS or max(patch) > _LONGEST_SIDE:
        raise ValueError(
            f"expected at most {_MOST_VOXELS} voxels, and {_LONGEST_SIDE} along an axis, got "
            f"{' x '.join(map(str, patch))}"
        )
    return patch


class _WithoutNumbers(Model):
    """A scheme that measures each case; its numbers are null in plan.json."""

    scheme: str
    mean: None = None
    std: None = None
    low: None = None
    high: None = None


class Ct(Model):
    """Clip to `[low, high]`, subtract `mean`, divide by `std`: measured on the training cases' foreground."""

    scheme: Literal["ct"] = "ct"
    mean: Intensity
    std: Annotated[float, Field(ge=0, le=1e15)]
    low: Intensity
    high: Intensity

    @model_validator(mode="after")
    def _range_rises(self) -> Ct:
        if self.low > self.high:
            raise ValueError(f"low: expected at most high, {self.high:g}, got {self.low:g}")
        return self


class ZScore(_WithoutNumbers):
    """Subtract the mean and divide by the standard deviation of each case."""

    scheme: Literal["zscore"] = "zscore"  # pyright: ignore[reportIncompatibleVariableOverride]


class ZScoreNonzero(_WithoutNumbers):
    """Z-score over the voxels that are not zero in all channels (holes filled); the others become 0."""

    scheme: Literal["zscore_nonzero"] = "zscore_nonzero"  # pyright: ignore[reportIncompatibleVariableOverride]


class MinMax(_WithoutNumbers):
    """Map the smallest and the largest intensity of each case to 0 and 1."""

    scheme: Literal["minmax"] = "minmax"  # pyright: ignore[reportIncompatibleVariableOverride]


class Rgb(_WithoutNumbers):
    """Divide by 255."""

    scheme: Literal["rgb"] = "rgb"  # pyright: ignore[reportIncompatibleVariableOverride]


class Unchanged(_WithoutNumbers):
    """Keep intensities as they are."""

    scheme: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride]


PerCase = ZScore | ZScoreNonzero | MinMax | Rgb | Unchanged
Normalization = Annotated[Ct | PerCase, Field(discriminator="scheme")]
_PER_CASE: dict[str, type[PerCase]] = {
    "zscore": ZScore,
    "zscore_nonzero": ZScoreNonzero,
    "minmax": MinMax,
    "rgb": Rgb,
    "none": Unchanged,
}
# Keys that are written only if they differ from their default.
_SELDOM = ("axes", "like_nnunet")


def per_case(scheme: str) -> PerCase:
    """The normalization of a scheme that is measured per case.

    >>> per_case("none").scheme
    'none'
    """
    return _PER_CASE[scheme]()


class Plan(Document):
    """What prepares an image and sizes a network, the same for training and prediction."""

    REMEDY: ClassVar[str] = "Copy the run again, or prepare the dataset again."

    spacing_mm: tuple[Edge, Edge, Edge]
    """Voxel spacing of the prepared grid (x, y, z), in the order of `axes`."""
    shape_median: tuple[Size, Size, Size]
    """Median shape of the prepared training cases."""
    patch_size: Annotated[tuple[Size, Size, Size], AfterValidator(_not_too_large)]
    """Voxels that the network sees (x, y, z)."""
    batch_size: Size
    """Patches per step."""
    crop: Crop
    """Crop to the bounding box of what is not zero, or not at all."""
    normalization: tuple[Normalization, ...]
    """One per channel, in the manifest's order."""
    keep_spacing: bool = False
    """Each case keeps its own spacing; `spacing_mm` is then the median, for planning."""
    axes: Literal["ras", "stored"] = "ras"
    """Axes of the prepared grid: reordered to be closest to RAS+, or as the file stores them."""
    like_nnunet: bool = False
    """Of an imported nnU-Net: use the voxel spacing of the header, the Gaussian of its windows and its
    interpolation of logits, where mambamed's differ."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        fields = type(self).model_fields
        unset = {key for key in _SELDOM if getattr(self, key) == fields[key].default}
        return {key: value for key, value in super().to_json().items() if key not in unset}
