"""What preparation loses of the labels of a case: by cropping, and by resampling to a coarser spacing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import IGNORE
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.prepared import CaseRecord, LabelLoss
from mambamed.geometry import orientation_of, to_ras
from mambamed.io.images import Image
from mambamed.io.tables import write_csv
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.prepare_image import label_integers
from mambamed.preparation.splines import nearest_neighbors
from mambamed.schema_errors import some_of

_MUCH = 0.5
_COUNTED = 200_000  # voxels of a label up to which its components are counted
_HEADERS = [
    "case", "label", "value", "voxels", "voxels_in_crop", "voxels_kept", "kept", "components",
    "components_lost",
]  # fmt: skip


def losses_of(native: Image, prepared: NDArray, geometry: CaseGeometry) -> dict[str, LabelLoss]:
    """Label value -> its voxels and components that preparation keeps; empty if the grid is the native one.

    A native voxel is kept if the nearest prepared voxel has its label; a component (26 neighbors) is lost if
    none of its voxels is kept.

    Args:
        native: the label map on the grid of the image.
        prepared: `(X, Y, Z)` of `prepare_label`.
        geometry: of the case.
    """
    label = label_integers(to_ras(native.array, orientation_of(native.affine)))
    is_whole = not any(geometry.crop_start) and tuple(geometry.crop_stop) == label.shape
    if is_whole and prepared.shape == label.shape:
        return {}
    from mambamed.preparation.loss_kernels import compare_labels, count_components  # compiled when needed

    if prepared.dtype != label.dtype:  # values above 255 lie outside the crop box
        prepared = prepared.astype(label.dtype)
    indices = []
    for axis, length in enumerate(label.shape):
        start, stop = geometry.crop_start[axis], geometry.crop_stop[axis]
        index = np.full(length, -1, np.int64)
        index[start:stop] = nearest_neighbors(prepared.shape[axis], stop - start)
        indices.append(index)
    largest = int(label.max(initial=0))
    counts, gone = compare_labels(label, prepared, (indices[0], indices[1], indices[2]), largest)
    asked = (gone > 0) & (counts[:, 0] <= _COUNTED)
    components = np.zeros(largest + 1, np.int64)
    if asked.any():
        components = count_components(label, asked, int(counts[asked, 0].sum()))
    return {
        str(value): LabelLoss(
            voxels=int(counts[value, 0]),
            in_crop=int(counts[value, 1]),
            kept=int(counts[value, 2]),
            components=int(components[value]) if asked[value] else None,
            components_lost=int(gone[value]),
        )
        for value in range(1, largest + 1)
        if counts[value, 0]
    }


def write_losses(path: Path, manifest: DatasetManifest, records: Mapping[str, CaseRecord]) -> None:
    """Write one row per case and label; cells of components are empty where they were not counted."""
    rows: list[list[Any]] = []
    for case_id, loss, name, value in _rows(manifest, records):
        fraction = round(loss.kept / loss.voxels, 6)
        counts = [loss.voxels, loss.in_crop, loss.kept, fraction, loss.components, loss.components_lost]
        rows.append([case_id, name, value, *counts])
    write_csv(path, _HEADERS, rows)


def warning_of_losses(
    manifest: DatasetManifest, records: Mapping[str, CaseRecord], spacings: Mapping[str, Sequence[float]]
) -> str | None:
    """A line about labels of which more than half is lost in some cases; None if there are none.

    Args:
        spacings: case -> native spacing, mm.
    """
    heavy = []
    for case_id, loss, name, _ in _rows(manifest, records):
        few = (loss.components or 0) * _MUCH
        if loss.kept < _MUCH * loss.voxels or (loss.components and loss.components_lost > few):
            heavy.append((loss.kept / loss.voxels, case_id, name, loss))
    if not heavy:
        return None
    heavy.sort(key=lambda each: each[:3])
    shown = some_of((_words(case_id, name, loss) for _, case_id, name, loss in heavy), "qc/losses.csv", 3)
    cases = {case_id for _, case_id, _, _ in heavy}
    cut = all(loss.in_crop < _MUCH * loss.voxels for _, _, _, loss in heavy)
    finest = np.min([spacings[case_id] for case_id in cases], axis=0)
    way = "set preprocess.crop to none" if cut else f"use a finer --spacing, e.g. {_listed(finest)}, or keep"
    lead = f"preparation loses more than half of a label in {len(cases)} of {len(records)} cases"
    return f"{lead}: {shown}. To keep them, {way}."


def _words(case_id: str, name: str, loss: LabelLoss) -> str:
    lost = loss.voxels - loss.kept
    if loss.components and loss.kept:
        parts = f", {loss.components_lost} of {loss.components} components"
    else:
        parts = ""
    return f"{case_id} {name} ({lost} of {loss.voxels} voxels{parts})"


def _rows(
    manifest: DatasetManifest, records: Mapping[str, CaseRecord]
) -> list[tuple[str, LabelLoss, str, int]]:
    names = {value: name for name, value in manifest.labels.items() if value and name != IGNORE}
    return [
        (case_id, loss, names[int(value)], int(value))
        for case_id, record in sorted(records.items())
        for value, loss in (record.losses or _unchanged(record)).items()
        if int(value) in names
    ]


def _unchanged(record: CaseRecord) -> dict[str, LabelLoss]:
    """Of a case on its native grid; empty if an earlier version of mambamed prepared the case."""
    if record.losses is None:
        return {}
    return {value: LabelLoss(voxels=n, in_crop=n, kept=n) for value, n in record.voxels.items()}


def _listed(spacing: Sequence[float]) -> str:
    return ",".join(f"{value:.3g}" for value in spacing)
