"""Images to predict as subject: DICOM series, BIDS, and numbered channels such as those of imagesTs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.cases import Case
from mambamed.converters import bids, dicom, nnunet
from mambamed.converters.inputs import find_inputs
from mambamed.converters.point_sets import holds_points, read_point_set
from mambamed.evaluation.pairing import find_references, names_near
from mambamed.io.dicom import find_series
from mambamed.io.images import case_id_of
from mambamed.io.points import Points
from mambamed.viewer.content import CaseView, PointPair, Subject
from mambamed.viewer.images import channel_volumes, numbered_names
from mambamed.viewer.volumes import mask_volume


def holds_series(place: Path) -> bool:
    """Whether a folder contains images as DICOM series; segmentations of a predicted folder are none."""
    if not place.is_dir() or any(case_id_of(path) for path in place.iterdir()):
        return False
    return dicom.recognizes(place) and any(series.is_readable for series in find_series(place))


def unlabelled_subject(source: Path, references: Path | None = None) -> Subject:
    """The cases that `predict` would find, with a mask or landmarks if references are given.

    Raises:
        DatasetError: files cannot be read.
    """
    channels = channels_of(source)
    cases = find_inputs(source, channels, incomplete=True)
    points = _points_of(references, cases)
    masks = {} if references is None or points else _masks_of(references, cases)
    answers = names_near(None, references if masks else None)

    def open_case(index: int) -> CaseView:
        case = cases[index]
        volumes = channel_volumes({name: "" for name in case.named(channels)}, case.channels)
        if case.id in masks:
            grid = volumes[0].read if volumes else None
            volumes.append(mask_volume("reference", "reference", masks[case.id], answers.segments, grid))
        pairs = [PointPair(name, point, None) for name, point in points.get(case.id, {}).items()]
        return CaseView(volumes, pairs, remarks=[case.fault] if case.fault else [])

    return Subject(
        title=str(source), kind="images", ids=[case.id for case in cases], open_case=open_case,
        folder=source, rows=[[] for _ in cases], labels=answers.names, inputs=[source],
    )  # fmt: skip


def channels_of(source: Path) -> Sequence[str]:
    """Names of the channels; none if the layout does not say which images are those of a case."""
    folder = source / "imagesTs" if (source / "imagesTs").is_dir() else source
    numbered = nnunet.numbered_channels(folder).values()
    if any(0 in files for files in numbered):
        names, count = numbered_names(folder), 1 + max(map(max, numbered))
        return [*names, *(f"channel {number}" for number in range(len(names), count))]
    if bids.recognizes(source):
        return bids.channels_in(source)
    return ["image"] if holds_series(source) else []


def _masks_of(references: Path, cases: Sequence[Case]) -> dict[str, Path]:
    found, _ = find_references(references)
    return {cases[0].id: references} if references.is_file() and len(cases) == 1 else found


def _points_of(references: Path | None, cases: Sequence[Case]) -> dict[str, Points]:
    if references is None or not holds_points(references):
        return {}
    found = dict(read_point_set(references).points)
    alone = len(cases) == len(found) == 1
    return {cases[0].id: next(iter(found.values()))} if alone else found
