"""Account for every file of an input folder: read, or not, by kind.

Hidden files, and files that mambamed wrote (`.mambamed-files`), are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mambamed.cases import Case
from mambamed.documents.account import Account, OtherFiles
from mambamed.errors import CaseError, MambamedError
from mambamed.io.dicom_files import is_dicom, kind_without_image, tags_of
from mambamed.io.folders import files_below
from mambamed.io.images import case_id_of, is_slicer_segmentation
from mambamed.io.ledger import LEDGER_NAME, Ledger
from mambamed.io.points import point_suffix
from mambamed.terminal import printable

_MOST_NAMED = 5
_MOST_OPENED = 1000  # DICOM files whose kind is determined; reading a header takes about a millisecond
# Formats of volumes and archives that are not read.
_OTHER_FORMATS = {
    ".mhd", ".raw", ".zraw", ".nhdr", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".vtk", ".vti", ".gipl",
    ".nc", ".h5", ".npy", ".npz", ".tif", ".tiff", ".zip", ".tar", ".gz", ".7z", ".rar", ".bz2",
}  # fmt: skip


def files_of(cases: Iterable[Case]) -> list[Path]:
    """The files and folders of the images and label maps of cases."""
    found: list[Path] = []
    for case in cases:
        for channel in case.channels:
            found += channel.files or (channel.path,)
        found += [case.label] if case.label else []
    return found


def account_of(source: Path, used: Iterable[Path]) -> Account:
    """Account for the files below a folder; of another input, only the number of files that were read.

    Args:
        used: files that were read, or folders of which every file was; other files below `source` count as
            not read.
    """
    known = {os.path.normpath(path) for path in used}
    if not source.is_dir():
        return Account(files_read=sum(map(os.path.exists, known)))
    folders = {path for path in known if os.path.isdir(path)}  # noqa: PTH112
    counts: dict[str, int] = {}
    names: dict[str, list[str]] = {}

    def add(kind: str, path: Path, is_data: bool) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        first = names.setdefault(kind, [])
        if is_data and len(first) < _MOST_NAMED:
            first.append(printable(os.path.relpath(path, source)))

    def cannot_be_listed(error: OSError) -> None:
        add("folder that cannot be listed", Path(error.filename), True)

    read, written, kind_of = 0, Written(source), _Kinds()
    for path in files_below(source, cannot_be_listed):
        text = os.path.normpath(path)
        if text in known or (folders and not folders.isdisjoint(map(str, Path(text).parents))):
            read += 1
        elif not written.holds(path):
            kind, is_data = kind_of(path)
            add(kind, path, is_data)
    other = (OtherFiles(kind=kind, count=counts[kind], files=tuple(names[kind])) for kind in counts)
    return Account(files_read=read, other=tuple(sorted(other, key=lambda each: (-each.count, each.kind))))


def other_files(places: Iterable[Path], used: Sequence[Path]) -> tuple[str, ...]:
    """One line per folder with files that were not read."""
    lines = {str(place): account_of(place, used).line for place in places}
    return tuple(f"{place}: {line}" for place, line in lines.items() if line)


class Written:
    """The files below a folder that mambamed wrote, by the lists in its folders."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._lists: dict[Path, list[tuple[Path, set[str]]]] = {}

    def holds(self, path: Path) -> bool:
        """Whether a list names the file."""
        lists = self._above(path.parent)
        return any(path.relative_to(folder).as_posix() in names for folder, names in lists)

    def _above(self, folder: Path) -> list[tuple[Path, set[str]]]:
        """The lists of a folder and of those above it, up to the source."""
        if folder not in self._lists:
            above = [] if folder == self._source else self._above(folder.parent)
            names: set[str] = set()
            if (folder / LEDGER_NAME).is_file():
                with suppress(MambamedError):  # of a damaged list, the files are named
                    names = Ledger(folder).refresh().names
            self._lists[folder] = [*above, (folder, names)] if names else above
        return self._lists[folder]


class _Kinds:
    """What a file is that was not read, and whether it looks like data."""

    def __init__(self) -> None:
        self._opened = 0

    def __call__(self, path: Path) -> tuple[str, bool]:
        if not path.is_file():
            return "pipe or device" if path.exists() else "broken link", True
        if is_slicer_segmentation(path):
            return "segmentation", True
        if case_id_of(path) is not None:
            return "image", True
        if is_dicom(path):
            return self._of_dicom(path), True
        suffix = path.suffix.lower()
        if point_suffix(path) in {".mrk.json", ".fcsv"}:
            return "point file", True
        if suffix in _OTHER_FORMATS:
            return f"{suffix} (format not read)", True
        return suffix or "without suffix", False

    def _of_dicom(self, path: Path) -> str:
        self._opened += 1
        if self._opened > _MOST_OPENED:
            return "DICOM file"
        if kind := kind_without_image(path):
            return f"DICOM {kind}"
        try:
            tags_of(path)
        except CaseError:
            return "unreadable DICOM"
        return "DICOM image"
