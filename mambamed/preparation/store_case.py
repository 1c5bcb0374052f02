"""Prepare one case and write its files; the last one written makes it complete."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import Case
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan
from mambamed.documents.prepared import CaseEntry, CaseFile, CaseRecord, LabelLoss
from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import from_ras, orientation_of, to_ras, world_to_voxel
from mambamed.io.atomic import flushed_together, write_bytes
from mambamed.io.images import Image, files_behind, smallest_integer, write_image
from mambamed.io.json_text import json_line
from mambamed.io.ledger import remove
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.label_kernels import count_labels, foreground_places
from mambamed.preparation.losses import losses_of
from mambamed.preparation.prepare_image import label_integers, prepare_image, prepare_label
from mambamed.preparation.reading import FixGeometry, read_channels, read_label
from mambamed.preparation.store import FORMAT, CaseFiles, encode_array, encode_foreground, read_array
from mambamed.report.contact_sheet import sheet_of

FOREGROUND_PER_LABEL = 10_000  # nnU-Net keeps as many


def store_case(
    case: Case, plan: Plan, root: Path, fix: FixGeometry = "none", qc: DatasetManifest | None = None
) -> CaseRecord:
    """Prepare a case, unless it already is there, prepared from the same files in the same way.

    The files are not flushed to the disk; the case's document holds their digests, by which the next run
    finds what a power cut tore. `flush_all` is to be called before dataset.json is written.

    Args:
        case: where its files are.
        plan: how to prepare it.
        root: the prepared dataset.
        fix: what may be done with an image on another grid; see `reading.on_grid`.
        qc: draw the case into qc/ with the names of this dataset, where that picture is not there yet.

    Returns:
        The case's document, with its entry of dataset.json.

    Raises:
        CaseError: a file cannot be used.
        RunError: the disk is full.
    """
    files = CaseFiles.of(root, case.id)
    settings = settings_of(case, plan, fix)
    known = _complete(files, settings)
    with flushed_together():
        if known is not None:
            if qc is not None and not files.picture.is_file():
                label = read_array(files.label) if known.entry.has_label else None
                _draw(case, files, read_array(files.image), label, CaseGeometry.of(known.geometry), qc)
            return known
        return _store(case, plan, files, settings, fix, qc)


def _store(
    case: Case, plan: Plan, files: CaseFiles, settings: str, fix: FixGeometry, qc: DatasetManifest | None
) -> CaseRecord:
    images = read_channels(case, fix)
    try:
        array, geometry = prepare_image(images, plan, dtype=np.float16)
    except CaseError as error:
        raise CaseError(f"{case.channels[0].path}: {error}") from error
    written: dict[CaseFile, bytes] = {"image": encode_array(array)}
    entry = CaseEntry(
        id=case.id,
        subject=case.subject,
        class_name=case.class_name,
        points=dict(case.points) if case.points else None,
        covariates=dict(case.covariates),
        shape=geometry.shape_prepared,
        channels=len(case.channels),
        has_label=case.label is not None,
    )
    voxels: Mapping[int, int] = {}
    losses: dict[str, LabelLoss] = {}
    native, label = read_label(case, images[0], fix), None
    if native is not None:
        label = prepare_label(native, geometry)
        losses = losses_of(native, label, geometry)
        rows, voxels = foreground_rows(label, case.id)
        written |= {"label": encode_array(label), "foreground": encode_foreground(rows)}
        write_image(files.reference, reference_labels(native, geometry), like=images[0])
    for name, data in written.items():
        write_bytes(getattr(files, name), data)
    digests: dict[CaseFile, str] = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    if case.label is not None:
        digests["reference"] = hashlib.sha256(files.reference.read_bytes()).hexdigest()
    remove(files.picture)
    if qc is not None:
        _draw(case, files, array, label, geometry, qc)
    record = CaseRecord(
        settings=settings,
        entry=entry,
        geometry=geometry.record(),
        voxels={str(value): count for value, count in voxels.items()},
        losses=losses,
        sha256=digests,
    )
    record.write(files.document)
    return record


def _draw(
    case: Case,
    files: CaseFiles,
    array: NDArray,
    label: NDArray | None,
    geometry: CaseGeometry,
    manifest: DatasetManifest,
) -> None:
    affine = geometry.affine_prepared
    points = {name: world_to_voxel(affine, point) for name, point in (case.points or {}).items() if point}
    names = {"channels": [*manifest.channels], "labels": manifest.labels, "landmarks": manifest.landmarks}
    write_bytes(files.picture, sheet_of(array, geometry.spacing_prepared, label, points, **names))


def reference_labels(label: Image, geometry: CaseGeometry) -> NDArray:
    """A label map as integers, its axes in the order of the image that it belongs to.

    Args:
        label: as read, on the image's grid in the world.
        geometry: of the case.

    Returns:
        `geometry.shape_native` integers, in the smallest type that holds them.
    """
    turned = from_ras(to_ras(label.array, orientation_of(label.affine)), geometry.orientation)
    whole = label_integers(turned)
    return whole.astype(smallest_integer(int(whole.max(initial=0))), copy=False)


def settings_of(case: Case, plan: Plan, fix: FixGeometry) -> str:
    """A hash of all that decides the prepared files: the sources and the relevant part of the plan."""
    sources: list[tuple[Path, tuple[Path, ...]]] = [(c.path, c.files) for c in case.channels]
    sources += [(case.label, ())] if case.label else []
    stamps = []
    for source, files in sources:
        with suppress(OSError):  # reading the case reports that
            states = [(file.name, file.stat()) for file in files_behind(source, files)]
            stamps += [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    decisive = {"spacing_mm", "keep_spacing", "crop", "normalization"}
    relevant = {key: value for key, value in plan.to_json().items() if key in decisive}
    volumes = [channel.volume for channel in case.channels]
    points = {name: point and list(point) for name, point in case.points.items()} if case.points else None
    text = json_line([FORMAT, stamps, volumes, relevant, case.subject, case.class_name, points])
    if case.covariates:
        text += json_line(dict(case.covariates))
    if fix != "none":
        text += fix
    if case.segment_names:
        regions = {name: list(values) for name, values in case.segment_names.regions.items()}
        text += json_line([dict(case.segment_names.labels), regions, dict(case.segment_names.spelled)])
    return hashlib.sha256(text.encode()).hexdigest()


def foreground_rows(label: NDArray, case_id: str) -> tuple[NDArray, dict[int, int]]:
    """Some foreground voxels of a label map, for drawing patches.

    Args:
        label: `(X, Y, Z)` uint8 or int16, C-ordered.
        case_id: seeds the choice.

    Returns:
        `(n, 4)` rows [label value, x, y, z], sorted, at most `FOREGROUND_PER_LABEL` a label; and label
        value -> voxels, the background included.
    """
    counts = count_labels(label, int(label.max(initial=0)))
    rows = foreground_places(label, counts, FOREGROUND_PER_LABEL, zlib.crc32(case_id.encode()))
    return rows, {value: int(count) for value, count in enumerate(counts) if count}


def _complete(files: CaseFiles, settings: str) -> CaseRecord | None:
    """The case's record if its files are those of these settings; None if it has to be prepared."""
    try:
        record = CaseRecord.read(files.document)
    except DatasetError:  # absent or damaged
        return None
    if record.settings != settings:
        return None
    for name, digest in record.sha256.items():
        path: Path = getattr(files, name)
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return None
    return record
