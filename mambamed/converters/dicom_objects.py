"""Pair DICOM series with the segmentations and structure sets that refer to them, wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mambamed.cases import Case
from mambamed.errors import CaseError, DatasetError
from mambamed.io.dicom import Series
from mambamed.io.dicom_files import FRAME_OF_REFERENCE, SERIES, tags_of
from mambamed.io.segments import Contents, read_contents
from mambamed.schema_errors import some_of

Paired = Sequence[tuple[Case, Series]]


def with_objects(source: Path, cases: Paired, objects: Sequence[Path]) -> tuple[list[Case], tuple[str, ...]]:
    """The cases with their labels, sorted by id, and warnings.

    A series without a segmentation is left out if another series of its subject has one, which is a warning.
    A segmentation without its series, a damaged one, and several of one series are faults of a case.

    Args:
        source: the folder that was searched.
        cases: of all series.
        objects: files of SEG and RTSTRUCT objects.

    Raises DatasetError: no segmentation can be read.
    """
    lookup = _Lookup(cases)
    labels: dict[str, list[Path]] = {}
    lost: list[Case] = []
    faults: list[str] = []
    for path in objects:
        try:
            contents = read_contents(path)
            labels.setdefault(lookup.case_of(path, contents, source), []).append(path)
        except CaseError as error:  # noqa: PERF203 - one fault per file
            name = "_".join(path.relative_to(source).with_suffix("").parts)
            lost.append(Case.found(name, (), label=path, fault=str(error)))
            faults.append(str(error))
    if not labels:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise DatasetError(f"{faults[0]}{more}")
    labeled = {case.subject for case, _ in cases if case.id in labels}
    kept, left = [], []
    for case, series in cases:
        given = labels.get(case.id, [])
        if len(given) == 1:
            kept.append(replace(case, label=given[0]))
        elif given:
            fault = (
                f"{case.id}: {len(given)} segmentations of its series: {some_of(map(str, given))}. "
                "Name the right one in a list of cases."
            )
            kept.append(replace(case, label=given[0], fault=fault))
        elif case.subject in labeled and series.is_readable:
            left.append(case.id)
        else:
            kept.append(case)
    warnings = (
        (f"{source}: series without a segmentation, next to one that has one, are left out: {some_of(left)}",)
        if left
        else ()
    )
    return sorted((*kept, *lost), key=lambda case: case.id), warnings


class _Lookup:
    """Series by what segmentations call them."""

    def __init__(self, cases: Paired) -> None:
        self._cases = cases
        self._by_uid = {series.uid: case.id for case, series in cases if series.uid}
        self._of_slices: Mapping[str, str] | None = None

    def case_of(self, path: Path, contents: Contents, source: Path) -> str:
        """The id of the case that a segmentation refers to.

        Raises CaseError: its series is not there, or it names none and the frame of reference has several.
        """
        found = dict.fromkeys(self._by_uid[uid] for uid in contents.series if uid in self._by_uid)
        if not found and contents.series:  # some exporters give every slice a series of its own
            found = dict.fromkeys(self._slices()[uid] for uid in contents.series if uid in self._slices())
        elif not found and contents.frame:
            found = dict.fromkeys(
                case.id
                for case, series in self._cases
                if series.is_readable and tags_of(series.files[0]).get(FRAME_OF_REFERENCE) == contents.frame
            )
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise CaseError(
                f"{path}: refers to {len(found)} series: {some_of(found)}. Pair it in a list of cases."
            )
        wanted = f"the series {some_of(contents.series)}" if contents.series else "no series"
        raise CaseError(
            f"{path}: refers to {wanted}, of which {source} has no image. Add it, or move this file."
        )

    def _slices(self) -> Mapping[str, str]:
        if self._of_slices is None:
            self._of_slices = {
                uid: case.id
                for case, series in self._cases
                if series.is_readable
                for file in series.files
                if (uid := _uid(file))
            }
        return self._of_slices


def _uid(file: Path) -> str:
    try:
        return tags_of(file).get(SERIES, "")
    except CaseError:  # a truncated slice
        return ""
