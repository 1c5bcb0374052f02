"""What is written of a case: its mask, and beside it what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import Case
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.geometry import Affine
from mambamed.io.images import Image

FORMATS = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each case.

    Attributes:
        preview: `CASE_preview.png`.
        probabilities: `CASE_probabilities.npz`.
        statistics: `CASE_statistics.json`.
        format: of the mask, a key of `FORMATS`.
    """

    preview: bool = False
    probabilities: bool = False
    statistics: bool = False
    format: str = "nifti"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError(f"--format {self.format}: is not among {', '.join(FORMATS)}")

    @property
    def suffix(self) -> str:
        """Of the mask's file."""
        return FORMATS[self.format]

    @property
    def voxels(self) -> bool:
        """Whether the images' own voxels are needed to the end."""
        return self.preview or self.statistics

    def beside(self, case: Case, output: Path) -> dict[str, Path]:
        """Kind -> file of what is written beside the mask."""
        asked = {"preview": self.preview, "probabilities": self.probabilities, "statistics": self.statistics}
        ends = {"preview": "png", "probabilities": "npz", "statistics": "json"}
        return {kind: output / f"{case.id}_{kind}.{ends[kind]}" for kind, wanted in asked.items() if wanted}


def statistics(
    labels: NDArray, images: Sequence[Image], affine: Affine, manifest: DatasetManifest
) -> dict[str, dict[str, object]]:
    """Volume and mean intensity of every label or region.

    Args:
        labels: `(X, Y, Z)` on the native grid.
        images: the channels on the same grid.
        affine: voxel -> world, mm.
        manifest: which labels a name stands for, and the channels' names.

    Returns:
        Name -> voxels, `volume_ml`, and `mean`: channel -> mean intensity as the file has it, None where the
        name has no voxel.
    """
    voxel_ml = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000
    values, counts = np.unique(labels, return_counts=True)
    count_of = dict(zip(values.tolist(), counts.tolist(), strict=True))
    size = int(labels.max()) + 1
    sums = [np.zeros(size) for _ in images]
    for plane in range(labels.shape[2]):  # a plane at a time: no copy of the volume
        flat = labels[:, :, plane].ravel()
        for total, image in zip(sums, images, strict=True):
            total += np.bincount(flat, image.array[:, :, plane].ravel().astype(np.float64), minlength=size)
    found: dict[str, dict[str, object]] = {}
    for name, members in manifest.foreground.items():
        there = [value for value in members if value in count_of]
        count = sum(count_of[value] for value in there)
        means = {
            channel: float(sum(total[value] for value in there)) / count if count else None
            for channel, total in zip(manifest.channels, sums, strict=True)
        }
        found[name] = {"voxels": count, "volume_ml": count * voxel_ml, "mean": means}
    return found


def missing(wanted: Wanted, case: Case, output: Path) -> bool:
    """Whether something that is wanted beside the mask is not there."""
    return not all(path.is_file() for path in wanted.beside(case, output).values())


def names_of(channels: Iterable[str]) -> NDArray[np.str_]:
    """Names as an array without objects, for a file that is read without pickle."""
    return np.array([str(name) for name in channels], dtype=np.str_)
