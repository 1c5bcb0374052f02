"""Find the DICOM series in a folder: which files belong together.

A series is all files with the same SeriesInstanceUID, in whatever subfolders they are. Some exporters give
every slice a SeriesInstanceUID of its own: files of the same study, frame of reference, modality and
description with one slice each are one series.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mambamed.errors import CaseError
from mambamed.io.dicom_files import (
    CLASS,
    DESCRIPTION,
    FRAME_OF_REFERENCE,
    FRAMES,
    MODALITY,
    ROWS,
    SERIES,
    STUDY,
    is_dicom,
    kind_without_image,
    series_named_in,
    tags_of,
)
from mambamed.io.folders import files_below
from mambamed.schema_errors import some_of

_MOST_NEIGHBORS = 200


@dataclass(frozen=True)
class Series:
    """Files of one series, not yet sorted or checked."""

    uid: str  # SeriesInstanceUID; of several, the first
    folder: Path  # the smallest one that holds all files
    files: tuple[Path, ...]  # sorted by path
    modality: str  # e.g. "CT", "MR"
    description: str  # SeriesDescription
    is_readable: bool = True
    notes: tuple[str, ...] = ()  # lines about files next to it that cannot be read

    @property
    def name(self) -> str:
        """For messages."""
        return self.description or self.uid


@dataclass(frozen=True)
class DicomFound:
    """The DICOM files below a folder."""

    series: tuple[Series, ...]  # by folder and uid
    unreadable: tuple[Series, ...]  # files that cannot be read, one series per folder, without a uid
    without_image: Mapping[Path, str]  # file -> what it is, e.g. "RTSTRUCT"


def find_series(source: Path) -> list[Series]:
    """All series in a folder and its subfolders, by folder and uid.

    The unreadable files of a folder are a series too, without a uid; reading it raises the error.
    """
    found = search_dicom(source)
    return sorted((*found.series, *found.unreadable), key=_place)


def series_of(path: Path, files: Sequence[Path] = ()) -> Series:
    """The series of a file, or the only series in a folder and its subfolders.

    Args:
        path: a folder, or a file; the other files of its series are searched in its folder and below.
        files: the files of the series, if they are known.

    Raises CaseError: not DICOM, or a folder with several series.
    """
    if files:
        return _series(files, _tags_of_any(files))
    if path.is_dir():
        found = search_dicom(path)
        series = [*found.series] or [*found.unreadable]
        if not found.series and found.unreadable:
            raise CaseError(unreadable(found.unreadable[0]))
        if not series:
            kinds = some_of(sorted(set(found.without_image.values())))
            fact = f"without DICOM images{f', only {kinds}' if kinds else ''}"
            raise CaseError(f"{path}: is a folder {fact}. Check the path.")
        if len(series) > 1:
            shown = some_of(f"{each.name} ({os.path.relpath(each.files[0], path)})" for each in series)
            raise CaseError(
                f"{path}: contains {len(series)} DICOM series: {shown}. Give a file of one of them."
            )
        return _complete(series[0], path)
    kind = kind_without_image(path)
    tags = {} if kind else tags_of(path)
    owner = next((each for each in search_dicom(path.parent).series if path in each.files), None)
    if owner is None:
        kind = kind_without_image(path, tags.get(CLASS)) or "no image"
        raise CaseError(f"{path}: is a DICOM file without an image ({kind}). Give a slice of a series.")
    return _complete(owner, path.parent)


def unreadable(series: Series) -> str:
    """The fault of files that cannot be read."""
    first, *others = series.files
    more = f" (and {len(others)} more files)" if others else ""
    return f"{first}{more}: is truncated or not DICOM. Copy it again, or move it elsewhere."


def slices_elsewhere(source: Path, uids: Collection[str]) -> str:
    """A line about folders next to `source` that hold slices of the same series; empty if there are none.

    Only the first DICOM file of each folder is read, and once.
    """
    source = Path(os.path.abspath(source))  # noqa: PTH100 - links are kept
    folders = []
    with suppress(OSError), os.scandir(source.parent) as listed:
        folders = sorted(each.name for each in listed if _is_neighbor(each))
    found = []
    for name in folders[:_MOST_NEIGHBORS]:
        folder = source.parent / name
        with suppress(CaseError, OSError):
            if folder != source and _first_uid(folder, folder.stat().st_mtime_ns) in {*uids} - {""}:
                found.append(folder)
    if not found:
        return ""
    more = some_of(map(str, found))
    return f"{more}: more slices of the series in {source}. Give {source.parent} to read all."


@functools.lru_cache(4096)
def _first_uid(folder: Path, changed_ns: int) -> str | None:
    """The SeriesInstanceUID of the first DICOM file in a folder that was last changed then."""
    files = (path for path in itertools.islice(files_below(folder), 20) if is_dicom(path))
    first = next(files, None)
    return None if first is None else tags_of(first).get(SERIES)


def _is_neighbor(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def _complete(series: Series, source: Path) -> Series:
    """The series with a note about slices next to the folder that was searched."""
    note = slices_elsewhere(source, {series.uid})
    return replace(series, notes=(*series.notes, note)) if note else series


def search_dicom(source: Path) -> DicomFound:
    """The DICOM files in a folder and its subfolders, by series."""
    grouped: dict[tuple[str, str], list[Path]] = {}
    first: dict[tuple[str, str], Mapping[str, str]] = {}
    broken: list[Path] = []
    without: dict[Path, str] = {}
    for path in files_below(source):
        if not is_dicom(path):
            continue
        try:
            tags = tags_of(path)
        except CaseError:
            kind = kind_without_image(path)
            if kind is None:
                broken.append(path)
            else:
                without[path] = kind
            continue
        kind = kind_without_image(path, tags.get(CLASS)) or ("" if ROWS in tags else "no image")
        if kind:
            without[path] = kind
            continue
        uid = tags.get(SERIES, "")
        key = (uid, "" if uid else str(path.parent))  # anonymizers may remove the uid
        grouped.setdefault(key, []).append(path)
        first.setdefault(key, tags)
    left = _put_into_their_series(broken, grouped)
    by_folder: dict[Path, list[Path]] = {}
    for path in left:
        by_folder.setdefault(path.parent, []).append(path)
    series = [_noted(each, by_folder) for each in sorted(_joined(grouped, first), key=_place)]
    unreadable = tuple(
        Series("", folder, tuple(files), "", "", is_readable=False) for folder, files in by_folder.items()
    )
    return DicomFound(tuple(series), unreadable, without)


def _noted(series: Series, unreadable: Mapping[Path, Sequence[Path]]) -> Series:
    """The series with a note about the unreadable files in its folders, which may be slices of it."""
    folders = dict.fromkeys(file.parent for file in series.files) if unreadable else ()
    files = [file for folder in folders for file in unreadable.get(folder, ())]
    if not files:
        return series
    line = f"{some_of(map(str, files))}: cannot be read and left out. Copy it again if it is a slice."
    return replace(series, notes=(line,))


def _place(series: Series) -> tuple[Path, str]:
    return series.folder, series.uid


def _put_into_their_series(
    broken: Iterable[Path], grouped: Mapping[tuple[str, str], list[Path]]
) -> list[Path]:
    """Add truncated slices to the series that their first bytes name; returns the files without one."""
    by_uid = {uid: files for (uid, _), files in grouped.items() if uid}
    left = []
    for path in broken:
        named = next((uid for uid in series_named_in(path) if uid in by_uid), None)
        if named is None:
            left.append(path)
        else:
            by_uid[named].append(path)
    return left


def _joined(
    grouped: Mapping[tuple[str, str], list[Path]], first: Mapping[tuple[str, str], Mapping[str, str]]
) -> list[Series]:
    """The series, those of one slice each joined where they are of one study, space, and description."""
    found: list[Series] = []
    slices: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for key, files in grouped.items():
        tags = first[key]
        if len(files) > 1 or int(tags.get(FRAMES) or 1) > 1 or not tags.get(STUDY):
            found.append(_series(files, tags))
        else:
            alike = (STUDY, FRAME_OF_REFERENCE, MODALITY, DESCRIPTION)
            slices.setdefault(tuple(tags.get(tag, "") for tag in alike), []).append(key)
    joined = (_series([grouped[key][0] for key in keys], first[keys[0]]) for keys in slices.values())
    return [*found, *joined]


def _series(files: Sequence[Path], tags: Mapping[str, str]) -> Series:
    folders = {str(file.parent) for file in files}
    folder = Path(os.path.commonpath(folders))
    uid, modality, description = (tags.get(tag, "") for tag in (SERIES, MODALITY, DESCRIPTION))
    return Series(uid, folder, tuple(sorted(files)), modality, description)


def _tags_of_any(files: Sequence[Path]) -> Mapping[str, str]:
    """The tags of the first file that can be read."""
    for file in files:
        try:
            return tags_of(file)
        except CaseError:  # noqa: PERF203
            continue
    return tags_of(files[0])
