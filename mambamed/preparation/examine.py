"""Check a case before any work, and collect the facts that planning needs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import Case
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.prepared import FingerprintCase
from mambamed.errors import CaseError
from mambamed.geometry import affine_to_ras, orientation_of, spacing_of, to_ras
from mambamed.io.images import Image, doubt_about, read_header, read_image
from mambamed.preparation.crop import nonzero_box
from mambamed.preparation.examine_answers import faults_of_class, faults_of_points, points_in_crop
from mambamed.preparation.fingerprint import Histogram
from mambamed.preparation.image_kernels import in_kernel_type, in_memory_order, moments
from mambamed.preparation.label_kernels import count_labels
from mambamed.preparation.reading import FixGeometry, on_grid, read_label

_DOMINANT = 0.5  # warn if a single voxel has at least this share of a channel's variance
_LARGEST_LABEL = 32767
_ROUNDING = 1e-3  # maximum distance of a label stored as float from an integer


@dataclass(frozen=True)
class Examined:
    """Findings about one case.

    Attributes:
        faults: lines; the case cannot be used.
        warnings: lines; the case can be used.
        shape_cropped: `(X, Y, Z)` of the crop box, RAS+ axes.
        spacing_mm: native, RAS+ axes.
        kept: fraction of the voxels that are in the crop box.
        voxels: label value -> number of voxels; empty without a label.
        foreground: channel number -> intensities under the label, for CT channels.
        content: hash of the voxels of all channels, to find duplicates.
    """

    case_id: str
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    shape_cropped: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    kept: float = 1.0
    voxels: Mapping[int, int] = field(default_factory=dict)
    foreground: Mapping[int, Histogram] = field(default_factory=dict)
    content: str = ""


class _Listener(logging.Handler):
    """Collects the warnings of the readers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def examine(case: Case, manifest: DatasetManifest, fix: FixGeometry = "none") -> Examined:
    """Read a case and report everything that is wrong with it; never raises because of a file's content.

    Args:
        fix: how images on another grid are handled; see `reading.on_grid`.
    """
    logger, listener = logging.getLogger("mambamed"), _Listener()
    logger.addHandler(listener)
    try:
        return _examine(case, manifest, fix, listener.lines)
    finally:
        logger.removeHandler(listener)


def _examine(case: Case, manifest: DatasetManifest, fix: FixGeometry, warnings: list[str]) -> Examined:
    if case.fault:
        return Examined(case.id, (case.fault,), tuple(warnings))
    faults: list[str] = []
    images: list[Image] = []
    for name, channel in zip(manifest.channels, case.channels, strict=True):
        try:
            image = read_image(channel.path, channel.volume, files=channel.files)
            if images:
                image = on_grid(image, images[0], channel.path, fix, note=warnings.append)
        except CaseError as error:
            faults.append(str(error))
            continue
        if doubt := _doubt_of(image.array):
            warnings.append(f"{channel.path}: channel {name} {doubt}")
        images.append(image)
    if len(images) < len(manifest.channels):
        return Examined(case.id, tuple(faults), tuple(warnings))
    label = _examined_label(case, manifest, images[0], fix, faults, warnings)
    faults += [*faults_of_points(case, manifest, images[0]), *faults_of_class(case, manifest)]
    if faults:
        return Examined(case.id, tuple(faults), tuple(warnings))
    return _facts(case, manifest, images, label, tuple(warnings))


def _doubt_of(array: NDArray) -> str | None:
    """What makes intensities doubtful, one voxel that outweighs all others included; None where nothing."""
    doubt = doubt_about(array)
    if doubt or not array.size:
        return doubt
    low, high = float(array.min()), float(array.max())
    mean, std, count = moments(in_kernel_type(array))
    if max(high - mean, mean - low) ** 2 > _DOMINANT * count * std**2:
        return f"has a range of {low:g} to {high:g} because of a single voxel. Correct that voxel."
    return None


def _examined_label(
    case: Case,
    manifest: DatasetManifest,
    image: Image,
    fix: FixGeometry,
    faults: list[str],
    warnings: list[str],
) -> NDArray | None:
    """The label map in RAS+ order, or None; its faults go to the list."""
    if case.label is None:
        if manifest.labels:
            faults.append(f"{case.id}: no label for this case. Add it.")
        return None
    try:
        label = read_label(case, image, fix, note=warnings.append)
    except CaseError as error:
        faults.append(str(error))
        return None
    assert label is not None and case.label is not None
    turned = to_ras(label.array, orientation_of(label.affine))
    return _checked_label(case.label, turned, manifest, faults, warnings)


def _checked_label(
    path: Path, label: NDArray, manifest: DatasetManifest, faults: list[str], warnings: list[str]
) -> NDArray | None:
    """The label map as integers, after a look at its values."""
    if label.dtype.kind == "f":
        rounded = np.rint(label)
        distance = np.abs(label - rounded)
        if distance.max() > _ROUNDING:
            worst = label.flat[int(np.argmax(distance))]
            count = len(np.unique(label))
            what = "Give the label map, not the image." if count > 100 else "Use nearest-neighbor resampling."
            faults.append(f"{path}: label {worst:g} is not an integer ({count} values). {what}")
            return None
        label = rounded
    low, high = int(label.min()), int(label.max())
    known = sorted(manifest.labels.values())
    if low < 0 or high > _LARGEST_LABEL:
        present = [int(value) for value in np.unique(label).tolist()]
    else:
        label = label.astype(np.uint8 if high < 256 else np.int16, copy=False)
        view, _ = in_memory_order(label)
        present = np.flatnonzero(count_labels(np.ascontiguousarray(view), high)).tolist()
    unknown = [value for value in present if value not in known]
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        listed = ", ".join(map(str, known))
        faults.append(
            f'{path}: label {shown} is not a label of the dataset ({listed}). Add it to "labels" or remap it.'
        )
        return None
    if high == 0:
        warnings.append(f"{path}: has no foreground. Check the label map.")
    return label


def _facts(
    case: Case,
    manifest: DatasetManifest,
    images: list[Image],
    label: NDArray | None,
    warnings: tuple[str, ...],
) -> Examined:
    """The facts that planning needs, for a case without faults."""
    orientation = orientation_of(images[0].affine)
    channels = [in_kernel_type(to_ras(image.array, orientation)) for image in images]
    start, stop = nonzero_box(channels)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    affine = affine_to_ras(images[0].affine, images[0].array.shape, orientation)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    warnings = (*warnings, *points_in_crop(case, moved, shape))
    voxels: dict[int, int] = {}
    foreground: dict[int, Histogram] = {}
    if label is not None:
        view, _ = in_memory_order(label)
        counts = count_labels(np.ascontiguousarray(view), int(label.max()))
        voxels = {value: int(count) for value, count in enumerate(counts) if count}
        for number, kind in enumerate(manifest.channels.values()):
            if kind == "ct":
                foreground[number] = Histogram.of(channels[number], label)
    digest = hashlib.sha256(str((images[0].array.shape, shape)).encode())
    for channel in channels:
        view, _ = in_memory_order(channel[box])
        digest.update(np.ascontiguousarray(view).data)
    size = images[0].array.size
    return Examined(
        case_id=case.id,
        warnings=warnings,
        shape_cropped=shape,
        spacing_mm=tuple(float(v) for v in spacing_of(affine)),
        kept=float(np.prod(shape) / size),
        voxels=voxels,
        foreground=foreground,
        content=digest.hexdigest(),
    )


def bytes_needed(case: Case) -> int:
    """Rough upper bound of the memory to examine or prepare a case, from the header of its first channel.

    0 if the header cannot be read: examining the case reports that.
    """
    if case.fault or not case.channels:
        return 0
    try:
        header = read_header(case.channels[0].path, files=case.channels[0].files)
    except CaseError:
        return 0
    voxels = int(np.prod(header.shape, dtype=np.int64))
    # All volumes of a 4-D file are read before one is selected.
    whole = voxels * header.volumes * header.dtype.itemsize if header.volumes > 1 else 0
    return voxels * (len(case.channels) * 12 + 24) + whole


def summary_of(examined: Examined) -> FingerprintCase:
    """The entry of fingerprint.json."""
    (x, y, z), (a, b, c) = examined.shape_cropped, examined.spacing_mm
    return FingerprintCase(
        id=examined.case_id,
        shape_cropped=(x, y, z),
        spacing_mm=(a, b, c),
        kept=round(examined.kept, 6),
        voxels={str(value): count for value, count in sorted(examined.voxels.items())},
    )
