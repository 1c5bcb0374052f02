"""The files of a segmented case: options, probability maps, statistics."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.answers.label_tables import ITK_SNAP, SLICER
from mambamed.cases import Case
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.geometry import Affine
from mambamed.io.atomic import open_atomic
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import Image, ImageHeader, write_image
from mambamed.io.rtstruct import write_rtstruct
from mambamed.io.seg_nrrd import write_seg_nrrd
from mambamed.io.write_errors import cannot_write
from mambamed.jobs.output import FURTHER, OutputFolder
from mambamed.preparation.grid import CaseGeometry
from mambamed.report.planes import color_of
from mambamed.tasks.segmentation import Segmentation

# The first suffix is that of the files in a folder; `-o` may name a single file with any of them.
MAPS, UNCERTAINTY = "uncertainty", "uncertainty.csv"

FORMATS = {
    "nifti": (".nii.gz", ".nii"),
    "seg-nrrd": (".seg.nrrd",),
    "dicom-seg": (".dcm",),
    "rtstruct": (".dcm",),
}


@dataclass(frozen=True)
class MaskOptions:
    """Options of `predict`.

    Attributes:
        preview: also write `CASE_preview.png`.
        probabilities: also write `CASE_probabilities.npz`: `probabilities` `(K, X, Y, Z)` float16 on the grid
            of the file, before postprocessing, their `names`, and the `affine`.
        statistics: also write `CASE_statistics.json`: volume and mean intensity of each label or region.
        uncertainty: also write `CASE_entropy.nii.gz` and `CASE_disagreement.nii.gz`, in a folder of their own
            unless the mask is a single file.
        format: of the mask, a key of `FORMATS`; `CASE.dcm` refers to the DICOM series that was read.
        ending: suffix of the mask's file, one of the format's (default: the first).
    """

    preview: bool = False
    probabilities: bool = False
    statistics: bool = False
    uncertainty: bool = False
    format: str = "nifti"
    ending: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError(f"--format {self.format}: is not among {', '.join(FORMATS)}")

    @property
    def suffix(self) -> str:
        """Suffix of the mask's file."""
        return self.ending or FORMATS[self.format][0]

    def place(self, output: Path) -> tuple[OutputFolder, MaskOptions]:
        """Where `-o` says that the masks are written, and these options for it.

        A name with a suffix of the format is the file of a single case, unless it is a folder.

        Raises:
            RecipeError: it has a suffix of another format.
        """
        ends = {end: kind for kind, suffixes in FORMATS.items() for end in suffixes} | {
            ".nrrd": "",
            ".mha": "",
        }
        end = next((end for end in ends if output.name.lower().endswith(end)), "")
        if not end or output.is_dir():
            tables = (UNCERTAINTY,) if self.uncertainty else ()
            if self.format == "nifti":
                tables = (*tables, ITK_SNAP, SLICER)
            return OutputFolder(output, "folder of masks", (self.suffix,), tables), self
        if end not in FORMATS[self.format] or not output.name.endswith(end):
            expected = " or ".join(FORMATS[self.format])
            others = [kind for kind, suffixes in FORMATS.items() if end in suffixes and kind != self.format]
            remedy = f"--format {' or '.join(others)}" if others else "the name of a folder"
            raise RecipeError(
                f"-o {output}: --format {self.format} writes {expected}. Give such a name, or {remedy}."
            )
        tables = (f"_{ITK_SNAP}", f"_{SLICER}") if self.format == "nifti" else ()
        return OutputFolder.of_file(output, (end,), (*FURTHER, *tables)), replace(self, ending=end)

    def further_files(self, case: Case, output: Path) -> dict[str, Path]:
        """Kind -> optional file."""
        asked = {"preview": self.preview, "probabilities": self.probabilities, "statistics": self.statistics}
        ends = {"preview": "png", "probabilities": "npz", "statistics": "json"}
        files = {kind: output / f"{case.id}_{kind}.{ends[kind]}" for kind, wanted in asked.items() if wanted}
        # not among the masks, which they would be read as
        folder = output if self.ending else output / MAPS
        maps = ("entropy", "disagreement") if self.uncertainty else ()
        return files | {kind: folder / f"{case.id}_{kind}.nii.gz" for kind in maps}


def write_mask(
    path: Path, labels: NDArray, like: Image | ImageHeader, case: Case, manifest: DatasetManifest, format: str
) -> None:
    """Write a label map in one of `FORMATS`, atomically.

    Args:
        labels: `(X, Y, Z)`, on the grid of `like`.
        like: the first channel of the case.

    Raises:
        CaseError: the headers of the case do not allow this format.
        RunError: the file cannot be written.
    """
    source = case.channels[0]
    if format == "nifti":
        write_image(path, labels, like=like)
    elif format == "seg-nrrd":
        write_seg_nrrd(path, labels, like.affine, manifest.foreground, _colors(manifest))
    elif format == "rtstruct":
        names, colors = manifest.foreground, _colors(manifest)
        write_rtstruct(path, labels, source.path, names, colors, manifest.name, source.files)
    else:
        write_segmentation(path, labels, source.path, manifest.labels, manifest.name, source.files)


def _colors(manifest: DatasetManifest) -> list[tuple[float, float, float]]:
    """Of the labels or regions, as in pictures; red, green and blue from 0 to 1."""
    numbers = [
        number if manifest.regions else members[0] - 1
        for number, members in enumerate(manifest.foreground.values())
    ]
    texts = [color_of(number).lstrip("#") for number in numbers]
    return [(int(t[:2], 16) / 255, int(t[2:4], 16) / 255, int(t[4:], 16) / 255) for t in texts]


def statistics(
    labels: NDArray, images: Mapping[str, Image], affine: Affine, manifest: DatasetManifest
) -> dict[str, dict[str, object]]:
    """Volume and mean intensity of each label or region, from `(X, Y, Z)` labels and the channels by name.

    Returns:
        Name -> `voxels`, `volume_ml`, and `mean`: channel -> mean intensity as stored, None without voxels.
    """
    voxel_ml = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000
    values, counts = np.unique(labels, return_counts=True)
    count_of = dict(zip(values.tolist(), counts.tolist(), strict=True))
    size = int(labels.max()) + 1
    sums = [np.zeros(size) for _ in images]
    for plane in range(labels.shape[2]):  # avoids a copy of the volume
        flat = labels[:, :, plane].ravel()
        for total, image in zip(sums, images.values(), strict=True):
            total += np.bincount(flat, image.array[:, :, plane].ravel().astype(np.float64), minlength=size)
    found: dict[str, dict[str, object]] = {}
    for name, members in manifest.foreground.items():
        there = [value for value in members if value in count_of]
        count = sum(count_of[value] for value in there)
        means = {
            channel: float(sum(total[value] for value in there)) / count if count else None
            for channel, total in zip(images, sums, strict=True)
        }
        found[name] = {"voxels": count, "volume_ml": count * voxel_ml, "mean": means}
    return found


@contextmanager
def probability_file(path: Path, task: Segmentation, geometry: CaseGeometry) -> Iterator[NDArray[np.float16]]:
    """An array `(K, X, Y, Z)` on the native grid to fill; it is saved as `.npz` when the block ends."""
    names = [*task.names] if task.by_regions else ["background", *task.names]
    with scratch_array(path, (task.outputs, *geometry.shape_native), np.float16) as values:
        yield values
        with open_atomic(path) as file:
            texts = np.array(names, dtype=np.str_)  # readable without pickle
            affine = np.array(geometry.affine_native)
            np.savez_compressed(file, probabilities=values, names=texts, affine=affine)


@contextmanager
def scratch_array(path: Path, shape: tuple[int, ...], kind: type[np.floating]) -> Iterator[NDArray]:
    """An array for the block, mapped to a temporary file next to `path`, so that it needs no memory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed below
    except OSError as error:
        raise cannot_write(path, error) from error
    with scratch:
        if hasattr(os, "posix_fallocate"):  # otherwise a full disk would kill the process by SIGBUS
            try:
                os.posix_fallocate(scratch.fileno(), 0, np.dtype(kind).itemsize * math.prod(shape))
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # not supported by the file system
                    raise cannot_write(path, error) from error
        yield np.memmap(scratch, kind, "w+", shape=shape)
