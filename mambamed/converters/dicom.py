"""Folders of DICOM: every series of slices is a case with one channel, labeled by its SEG or RTSTRUCT object.

A series is found wherever its files lie in the folder and its subfolders, and so are segmentations: they name
their series. The case id is the path of the smallest folder that holds all files of the series, with the
number of the series if it holds several; the first folder below the source is the subject. For other labels,
landmarks or classes, write a list of cases, whose cells may be such folders.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.dicom_objects import with_objects
from mambamed.converters.options import ConvertOptions
from mambamed.converters.segmented import named_labels
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.io.dicom import Series, find_series, is_dicom
from mambamed.io.dicom_series import search_dicom, slices_elsewhere, unreadable
from mambamed.io.folders import files_below
from mambamed.io.images import case_id_of

log = logging.getLogger("mambamed")


def recognizes(source: Path) -> bool:
    """Whether there are DICOM files in the folder or its subfolders."""
    return source.is_dir() and any(map(is_dicom, files_below(source)))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The series as cases; an unreadable file is a case too, which verification reports.

    Raises DatasetError: no segmentation can be read, or segments of different cases contradict each other.
    """
    found = search_dicom(source)
    paired = _cases(source, sorted((*found.series, *found.unreadable), key=lambda s: (s.folder, s.uid)))
    objects = sorted(path for path, kind in found.without_image.items() if kind in {"SEG", "RTSTRUCT"})
    kinds = {"ct" if series.modality == "CT" else "mri" for _, series in paired}
    channel = options.one_channel("CT", "ct") if kinds == {"ct"} else options.one_channel("image", "mri")
    if not objects:
        manifest = DatasetManifest.of(name=source.resolve().name, channels=channel)
        return RawDataset(manifest, [case for case, _ in paired])
    cases, warnings = with_objects(source, paired, objects)
    labels, regions = dict(options.labels or {}), {}
    if not labels:
        labels, regions = named_labels([case for case in cases if not case.fault], options.progress)
    manifest = DatasetManifest.of(
        name=source.resolve().name, source=source, channels=channel, labels=labels, regions=regions
    )
    return RawDataset(manifest, cases, warnings=warnings)


class ListedSeries:
    """The DICOM series of the cells of a list: a file stands for its series, wherever below the list's folder
    the other files lie; a folder is searched when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cached_property
    def _found(self) -> dict[Path, Series]:
        return {path: series for series in find_series(self._folder) for path in series.files}

    def channel(self, path: Path) -> ChannelFile:
        """The channel of a cell."""
        if path.is_dir() or case_id_of(path) is not None or not is_dicom(path):
            return ChannelFile(path)
        series = self._found.get(path) if self._folder in path.parents else None
        return ChannelFile(path, files=series.files if series else ())


def series_cases(source: Path) -> list[tuple[Case, str]]:
    """One case per series, with its modality, sorted by id.

    The unreadable files of a folder are a case without images. Slices in folders next to `source` are warned
    about.
    """
    found = find_series(source)
    if note := slices_elsewhere(source, {series.uid for series in found}):
        log.warning("%s", note)
    return [(case, series.modality) for case, series in _cases(source, found)]


def _cases(source: Path, found: Sequence[Series]) -> list[tuple[Case, Series]]:
    several = Counter(series.folder for series in found if series.is_readable)
    numbers: Counter[Path] = Counter()
    cases = []
    for series in found:
        parts = series.folder.relative_to(source).parts
        name = "_".join(parts) or source.resolve().name
        if not series.is_readable:
            name = f"{name}_{series.files[0].name}"
            cases.append((Case.found(name, (), fault=unreadable(series)), series))
            continue
        if several[series.folder] > 1:
            numbers[series.folder] += 1
            name = f"{name}_{numbers[series.folder]}"
        subject = parts[0] if parts else name
        channel = ChannelFile(series.files[0], files=series.files)
        cases.append((Case.found(name, (channel,), subject=subject), series))
    return sorted(cases, key=lambda pair: pair[0].id)
