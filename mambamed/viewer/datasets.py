"""A dataset as subject: prepared, as downloaded, or a single image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mambamed.cases import Case, SegmentNames
from mambamed.converters import convert
from mambamed.converters.point_sets import holds_points, read_point_set
from mambamed.documents.prepared import CaseEntry
from mambamed.errors import DatasetError
from mambamed.evaluation.pairing import names_near
from mambamed.io.dicom import is_dicom
from mambamed.io.images import Image, case_id_of
from mambamed.io.segments import is_segmentation
from mambamed.preparation.store import PreparedDataset
from mambamed.viewer.content import CaseView, Cell, Column, PointPair, Subject, Volume
from mambamed.viewer.images import channel_volumes, volumes_of
from mambamed.viewer.unlabelled import channels_of, unlabelled_subject
from mambamed.viewer.volumes import mask_volume

_MOST_CHANNELS = 20  # of a folder that is a case
_IMAGES = "Give NIfTI, NRRD, MetaImage or DICOM, or a folder of them."


def prepared_subject(root: Path) -> Subject:
    """A prepared dataset, as the network sees it: normalized channels on the prepared grid.

    Raises:
        DatasetError: it is not finished, or damaged.
    """
    dataset = PreparedDataset.open(root)
    manifest, ids = dataset.manifest, dataset.case_ids
    folds = {case: f"fold {k}" for k, fold in enumerate(dataset.splits) for case in fold["val"]}
    if len(dataset.splits) == 1:
        parts = dataset.splits[0]
        folds = {case: part for part, cases in parts.items() for case in cases}
    columns = [Column("part" if len(dataset.splits) == 1 else "validated in"), Column("voxels")]
    columns += [Column("class")] if manifest.classes else []
    rows: list[list[Cell]] = []
    for case in map(dataset.case, ids):
        row: list[Cell] = [folds.get(case.id), int(np.prod(case.shape))]
        rows.append([*row, case.class_name] if manifest.classes else row)

    def open_case(index: int) -> CaseView:
        case = dataset.case(ids[index])
        document = case.document
        affine = np.array(document.geometry.affine_prepared)

        def channel(number: int) -> Image:
            return Image(np.asarray(case.image()[number], np.float32), affine)

        def label() -> Image:
            return Image(np.maximum(case.label(), 0), affine)

        volumes = [
            Volume(name, "image", lambda k=k: channel(k), source=f"{name}, normalized")
            for k, name in enumerate(manifest.channels)
        ]
        if case.has_label:
            volumes.append(Volume("label", "reference", label, source=f"{case.id}, prepared"))
        return CaseView(volumes, _points_of(document.entry), {"shape": "x".join(map(str, case.shape))})

    return Subject(
        title=str(root), kind="prepared dataset", ids=ids, open_case=open_case, folder=root,
        columns=columns, rows=rows, labels=manifest.labels, inputs=[root],
    )  # fmt: skip


def _points_of(entry: CaseEntry) -> list[PointPair]:
    return [PointPair(name, point, None) for name, point in (entry.points or {}).items()]


def dataset_subject(source: Path) -> Subject:
    """A dataset as downloaded, in any layout that `prepare` reads; else the images in a folder.

    Raises:
        DatasetError: no known layout, and no images.
    """
    try:
        dataset = convert(source)
    except DatasetError:
        if source.is_dir() and channels_of(source):
            return unlabelled_subject(source)
        shown = folder_subject(source) if source.is_dir() else None
        if shown is None:
            raise
        return shown
    manifest, cases = dataset.manifest, list(dataset.cases)
    columns = [Column("class")] if manifest.classes else []
    columns += [Column("fault")] if any(case.fault for case in cases) else []

    def row(case: Case) -> list[Cell]:
        cells: list[Cell] = [case.class_name] if manifest.classes else []
        return [*cells, case.fault] if any(column.title == "fault" for column in columns) else cells

    def open_case(index: int) -> CaseView:
        case = cases[index]
        channels = channel_volumes(
            {name: manifest.channels[name] for name in case.named(manifest.channels)}, case.channels
        )
        masks = []
        if case.label is not None:
            names = case.segment_names or SegmentNames(manifest.labels, manifest.regions)
            grid = channels[0].read if channels else None
            masks.append(mask_volume("label", "reference", case.label, names, grid))
        points = [PointPair(name, point, None) for name, point in (case.points or {}).items()]
        facts: dict[str, Cell] = {**case.covariates, "subject": case.subject}
        return CaseView((*channels, *masks), points, facts, [case.fault] if case.fault else [])

    return Subject(
        title=str(source), kind="dataset", ids=[case.id for case in cases], open_case=open_case,
        folder=source, columns=columns, rows=[row(case) for case in cases], labels=manifest.labels,
        inputs=[source],
    )  # fmt: skip


def folder_subject(root: Path) -> Subject | None:
    """Images in a folder, or in one folder per case, without anything to learn; None if there are none.

    A file whose name ends in seg, label or mask is the mask of its case. Folders with more images than a case
    has, e.g. `images`, hold one case per name of a file.
    """
    folders = {folder.name: _images_in(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    cases = {name: files for name, files in folders.items() if 0 < len(files) <= _MOST_CHANNELS}
    many = [path for name, files in folders.items() if name not in cases for path in files]
    for path in [*_images_in(root), *many]:
        cases.setdefault(case_id_of(path) or path.name, []).append(path)
    if not cases:
        return None
    ids = list(cases)

    def open_case(index: int) -> CaseView:
        case = ids[index]
        masks = [path for path in cases[case] if _is_mask(path)]
        images = [path for path in cases[case] if path not in masks]
        channels = [volume for path in images for volume in volumes_of(path, case, len(images))]
        grid = channels[0].read if channels else None
        labels = [mask_volume(path.name, "reference", path, SegmentNames(), grid) for path in masks]
        return CaseView((*channels, *labels))

    return Subject(
        title=str(root), kind="images", ids=ids, open_case=open_case, folder=root, rows=[[] for _ in ids],
        inputs=[root],
    )  # fmt: skip


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if case_id_of(path) is not None and path.is_file())


def _is_mask(path: Path) -> bool:
    name = (case_id_of(path) or "").lower()
    return is_segmentation(path) or name.replace("-", "_").rpartition("_")[2] in {"seg", "label", "mask"}


def image_subject(path: Path, references: Path | None) -> Subject:
    """A single image, or a DICOM series, with a mask or landmarks if `references` is such a file.

    Raises:
        DatasetError: it is not an image, or `references` cannot be read.
    """
    if case_id_of(path) is None and not is_segmentation(path) and not is_dicom(path):
        raise DatasetError(f"{path}: is not an image. {_IMAGES}")
    case = case_id_of(path) or path.name
    points = []
    if references is not None and holds_points(references):
        known = read_point_set(references).points
        own = known.get(case) or (next(iter(known.values())) if len(known) == 1 else {})
        points = [PointPair(name, point, None) for name, point in own.items()]
    answers = names_near(None, references if references is not None and not points else None)

    def open_case(index: int) -> CaseView:
        channels = volumes_of(path, case)
        masks = []
        if references is not None and not points:
            masks = [mask_volume("reference", "reference", references, answers.segments, channels[0].read)]
        return CaseView((*channels, *masks), points)

    return Subject(
        title=str(path), kind="image", ids=[case], open_case=open_case, folder=path, rows=[[]],
        labels=answers.names, inputs=[path],
    )  # fmt: skip
