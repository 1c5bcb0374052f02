"""The plan: recipe and fingerprint resolved into numbers. No "auto" is left in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_MOST_VOXELS = 2**30  # of a patch: more than any device holds of a network's activations

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Normalization:
    """How the intensities of one channel are normalized.

    Attributes:
        scheme: "ct": clip to `[low, high]`, subtract `mean`, divide by `std`, all four measured on the
            foreground of the training cases; "zscore": with each case's own mean and standard deviation;
            "zscore_nonzero": the same over the voxels that are not zero in all channels (holes filled),
            the others become 0; "none": as they are.
        mean, std, low, high: numbers of the scheme "ct"; None for the others.
    """

    scheme: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plan:
    """What prepares an image and sizes a network, the same for training and prediction.

    Attributes:
        spacing_mm: of the prepared grid (x, y, z), RAS+ axes.
        keep_spacing: each case keeps its own spacing; `spacing_mm` then is the median, for planning.
        shape_median: median shape of the prepared training cases.
        patch_size: voxels the network sees (x, y, z).
        batch_size: patches a step.
        crop: "nonzero" or "none".
        normalization: one a channel, in the manifest's order.
    """

    spacing_mm: Spacing
    shape_median: Triple
    patch_size: Triple
    batch_size: int
    crop: str
    normalization: tuple[Normalization, ...]
    keep_spacing: bool = False

    def __post_init__(self) -> None:
        fact = ""
        if not all(math.isfinite(edge) and edge > 0 for edge in self.spacing_mm):
            fact = f"spacing_mm {self.spacing_mm}"
        elif min(*self.patch_size, *self.shape_median, self.batch_size) < 1:
            fact = f"patch_size {self.patch_size}, shape_median {self.shape_median}, batch {self.batch_size}"
        elif math.prod(self.patch_size) > _MOST_VOXELS:
            fact = f"patch_size {self.patch_size}"
        if fact:
            raise ValueError(f"{fact} cannot be")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_json` gives the plan back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote; further keys are passed over."""
        x, y, z = (float(v) for v in document["spacing_mm"])
        return cls(
            spacing_mm=(x, y, z),
            shape_median=_triple(document["shape_median"]),
            patch_size=_triple(document["patch_size"]),
            batch_size=int(document["batch_size"]),
            crop=str(document["crop"]),
            normalization=tuple(Normalization(**each) for each in document["normalization"]),
            keep_spacing=bool(document.get("keep_spacing", False)),
        )


def _triple(values: Any) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z
