"""Images in subfolders, for prediction: `p01/T1w.nii.gz`, `p01/scan.nii.gz`, `site/p01/p01_flair.nii.gz`.

If files are named by the model's channels, those of a folder with the same beginning are one case. Otherwise
a model of one channel takes every image as a case. The case id is the path below the source, joined by "_";
of a file whose name begins with that of its folder, the name alone. Label maps, by their names or those of
their folders, and files that mambamed wrote are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters import brats
from mambamed.converters.accounting import Written
from mambamed.io.folders import files_below
from mambamed.io.images import case_id_of, is_slicer_segmentation

_LABELS = {"seg", "gtv", "dseg", "label", "labels", "mask", "masks", "segmentation", "segm"}
_LABEL_FOLDERS = {*_LABELS, "labelstr", "labelsts", "labelsval", "segmentations", "references", "derivatives"}


def find_cases(source: Path, channels: Sequence[str]) -> list[Case]:
    """The cases in the subfolders; none if no file is named by a channel and there are several channels, or
    several images of a case by the names of BraTS."""
    images = _images_below(source)
    grouped: dict[str, dict[str, Path]] = {}
    twice: dict[str, list[Path]] = {}
    for path in images:
        begin, channel = _split(case_id_of(path) or "", channels)
        if channel:
            case_id = _id_of(path, source, begin)
            if channel in (files := grouped.setdefault(case_id, {})):
                twice.setdefault(case_id, [files[channel]]).append(path)
            files[channel] = path
    if not grouped and any(
        len({*files} - {*brats.ANSWERS}) > 1 for files in brats.case_files(source).values()
    ):
        return []  # which of the modalities is it?
    if not grouped and len(channels) == 1:
        cases = [(_id_of(path, source, case_id_of(path) or ""), path) for path in images]
        return [Case.found(case_id, (ChannelFile(path),)) for case_id, path in sorted(cases)]
    return [
        Case.found(
            case_id,
            tuple(ChannelFile(files[name]) for name in channels if name in files),
            fault=_fault(case_id, files, channels, source, twice.get(case_id, ())),
            missing={}
            if case_id in twice
            else {k: name for k, name in enumerate(channels) if name not in files},
        )
        for case_id, files in sorted(grouped.items())
    ]


def _images_below(source: Path) -> list[Path]:
    written, found = Written(source), []
    for path in files_below(source):
        stem = case_id_of(path)
        if stem is None or is_slicer_segmentation(path) or written.holds(path):
            continue
        folders = {part.lower() for part in path.relative_to(source).parts[:-1]}
        if re.split(r"[-_.]", stem.lower())[-1] not in _LABELS and not folders & _LABEL_FOLDERS:
            found.append(path)
    return found


def _split(stem: str, channels: Sequence[str]) -> tuple[str, str]:
    """The name without the channel at its end, and the channel; the latter is empty if there is none."""
    for name in sorted(channels, key=len, reverse=True):
        if match := re.fullmatch(rf"(?:(.*)[-_.])?{re.escape(name)}", stem, re.IGNORECASE | re.DOTALL):
            return match[1] or "", name
    return stem, ""


def _id_of(path: Path, source: Path, begin: str) -> str:
    folders = path.relative_to(source).parts[:-1]
    if begin and any(begin.lower().startswith(folder.lower()) for folder in folders):
        return begin
    return "_".join([*folders, *([begin] if begin else [])]) or source.resolve().name


def _fault(
    case_id: str, files: dict[str, Path], channels: Sequence[str], source: Path, twice: Sequence[Path]
) -> str | None:
    if twice:
        shown = ", ".join(str(path.relative_to(source)) for path in twice)
        return f"{case_id}: several images of one channel ({shown}). Write a list of cases."
    missing = [name for name in channels if name not in files]
    return f"{case_id}: channel {', '.join(missing)} is missing in {source}. Add it." if missing else None
