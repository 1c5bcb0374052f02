"""Predictions as subject: masks, landmarks or class probabilities, without or with references."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mambamed.converters.point_sets import PointSet, holds_points, read_point_set
from mambamed.documents.prediction import CaseResult
from mambamed.errors import DatasetError
from mambamed.evaluation.classification import holds_probabilities, probability_files
from mambamed.evaluation.pairing import find_predictions, find_references, names_near
from mambamed.evaluation.reference_classes import read_reference_classes
from mambamed.io.images import case_id_of
from mambamed.io.probabilities import read_probabilities
from mambamed.viewer.case_rows import NO_IMAGE, mean
from mambamed.viewer.content import CaseView, Cell, Column, PointPair, Subject
from mambamed.viewer.images import Images
from mambamed.viewer.records import least_expected_dice, recorded
from mambamed.viewer.saliency import saliency_volumes, uncertainty_volumes
from mambamed.viewer.volumes import mask_volume


def predictions_subject(places: Sequence[Path], images: Path | None, references: Path | None) -> Subject:
    """Predictions of one or several models for the same cases.

    Args:
        places: each a folder of masks or point files, a mask, or a table of points or class probabilities.
        images, references: as in `Images`.

    Raises:
        DatasetError: they cannot be read, or are of different kinds.
    """
    for kind, show in ((holds_probabilities, _classes), (holds_points, _points)):
        if all(map(kind, places)):
            return show(places, images, references)
    return _masks(places, images, references)


def _masks(places: Sequence[Path], images: Path | None, references: Path | None) -> Subject:
    truth = find_references(references)[0] if references else {}
    found = {place: _masks_in(place, truth) for place in places}
    if references is not None and references.is_file() and all(len(masks) == 1 for masks in found.values()):
        truth = {next(iter(next(iter(found.values())))): references}
    ids = sorted({case for masks in found.values() for case in masks})
    record = recorded(places[0])
    answers = names_near(places[0], references)
    finder = Images(images, references, ids)

    def open_case(index: int) -> CaseView:
        case = ids[index]
        reference = truth.get(case)
        channels = finder.find(case, reference)
        grid = channels[0].read if channels else None
        masks = [] if reference is None else [
            mask_volume("reference", "reference", reference, answers.segments, grid)
        ]  # fmt: skip
        for place, of_place in found.items():
            if case in of_place:
                name = "prediction" if len(places) == 1 else place.name
                masks.append(mask_volume(name, "prediction", of_place[case], answers.segments, grid))
        remarks = [*(record[case].warnings if case in record else ()), *([] if channels else [NO_IMAGE])]
        maps = uncertainty_volumes(case, places[0])
        return CaseView((*channels, *masks, *maps), remarks=remarks)

    columns, rows = _of_record(ids, record)
    return Subject(
        title=", ".join(map(str, places)), kind="masks", ids=ids, open_case=open_case, folder=places[0],
        columns=columns, rows=rows, labels=answers.names, sort_by=3 if len(columns) > 3 else None,
        inputs=places,
    )  # fmt: skip


def _masks_in(place: Path, known: Mapping[str, Path]) -> dict[str, Path]:
    return find_predictions(place, known) if place.is_dir() else {case_id_of(place) or place.stem: place}


def _of_record(ids: Sequence[str], record: Mapping[str, CaseResult]) -> tuple[list[Column], list[list[Cell]]]:
    """The state of each case, and the least Dice that `predict --uncertainty` expects of its structures."""
    if not record:
        return [], [[] for _ in ids]
    expects = any(known.uncertainty for known in record.values())
    columns = [Column("state"), Column("seconds"), Column("warnings", "lower")]
    columns += [Column("least expected Dice", "higher")] if expects else []
    rows: list[list[Cell]] = []
    for case in ids:
        known = record.get(case)
        row: list[Cell] = [known.status, known.seconds, len(known.warnings)] if known else [None] * 3
        if expects:
            row.append(least_expected_dice(known))
        rows.append(row)
    return columns, rows


def _points(places: Sequence[Path], images: Path | None, references: Path | None) -> Subject:
    if len(places) > 1:
        raise DatasetError(f"{places[1]}: only one set of landmarks can be shown. Give one.")
    found = read_point_set(places[0])
    truth = read_point_set(references) if references else PointSet({}, (), "")
    ids = sorted({*found.points, *found.faults})
    finder = Images(images, references, ids)
    columns = [Column("found"), Column("absent")]
    columns += [Column("mean error, mm", "lower"), Column("largest error, mm", "lower")] if references else []
    rows: list[list[Cell]] = []
    for case in ids:
        pairs = _pairs(found, truth, case)
        placed = sum(pair.prediction is not None for pair in pairs)
        cells: list[Cell] = [placed, sum(point is None for point in found.points.get(case, {}).values())]
        if references:
            errors = [math.dist(p.reference, p.prediction) for p in pairs if p.reference and p.prediction]
            cells += [mean(errors), max(errors, default=None)]
        rows.append(cells)

    def open_case(index: int) -> CaseView:
        case = ids[index]
        channels = finder.find(case, None)
        remarks = [str(found.faults[case])] if case in found.faults else []
        return CaseView(channels, _pairs(found, truth, case), remarks=remarks + [NO_IMAGE] * (not channels))

    return Subject(
        title=str(places[0]), kind="landmarks", ids=ids, open_case=open_case, folder=places[0],
        columns=columns, rows=rows, sort_by=3 if references else None, inputs=places,
    )  # fmt: skip


def _pairs(found: PointSet, truth: PointSet, case: str) -> list[PointPair]:
    ours, theirs = found.points.get(case, {}), truth.points.get(case, {})
    return [PointPair(name, theirs.get(name), ours.get(name)) for name in dict.fromkeys([*theirs, *ours])]


def _classes(places: Sequence[Path], images: Path | None, references: Path | None) -> Subject:
    tables = {path: read_probabilities(path) for place in places for path in probability_files(place)}
    path, table = next(iter(tables.items()))
    if len(tables) > 1:
        raise DatasetError(
            f"{path.parent}: {len(tables)} tables of probabilities. Give one, or run evaluate and view that."
        )
    truth = read_reference_classes(references, table.classes, set(table.cases)).class_of if references else {}
    ids, finder = list(table.cases), Images(images, None, table.cases)
    columns = [Column("predicted"), Column("its probability", "higher")]
    columns += [Column("reference"), Column("correct", "higher")] if truth else []
    rows: list[list[Cell]] = []
    for case, label, chances in zip(ids, table.labels, table.values.tolist(), strict=True):
        row: list[Cell] = [label, chances[table.classes.index(label)]]
        if truth:
            row += [truth.get(case), int(truth[case] == label) if case in truth else None]
        rows.append(row)

    def open_case(index: int) -> CaseView:
        channels = finder.find(ids[index], None)
        maps = saliency_volumes(ids[index], [path.parent], path.stem)
        facts = dict(zip(table.classes, table.values[index].tolist(), strict=True))
        return CaseView((*channels, *maps), facts=facts, remarks=[] if channels else [NO_IMAGE])

    return Subject(
        title=str(path), kind="classes", ids=ids, open_case=open_case, folder=path,
        columns=columns, rows=rows, sort_by=3 if truth else 1, inputs=[path],
    )  # fmt: skip
