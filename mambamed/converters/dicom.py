"""Folders of DICOM: every series of slices is a case with one channel and without a label.

Series are found in the folder and its subfolders. The case id is the path of the folder, with the number of
the series if there are several; the first folder below the source is the subject. For labels, landmarks or
classes, write a list of cases, whose cells may be such folders.
"""

from __future__ import annotations

from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import ConvertOptions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.io.dicom import find_series, is_dicom


def recognizes(source: Path) -> bool:
    """Whether there are DICOM files in the folder, or in subfolders down to the third level."""
    return source.is_dir() and any(
        is_dicom(path) for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for path in source.glob(depth)
    )


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The series as cases without labels; an unreadable file is a case too, which verification reports."""
    cases = series_cases(source)
    kinds = {"ct" if modality == "CT" else "mri" for _, modality in cases}
    channel = options.one_channel("CT", "ct") if kinds == {"ct"} else options.one_channel("image", "mri")
    manifest = DatasetManifest.of(name=source.resolve().name, channels=channel)
    return RawDataset(manifest, [case for case, _ in cases])


def series_cases(source: Path) -> list[tuple[Case, str]]:
    """One case per series, with its modality, sorted by id."""
    found = find_series(source)
    folders = [series.folder for series in found]
    cases = []
    for number, series in enumerate(found):
        parts = series.folder.relative_to(source).parts
        name = "_".join(parts) or source.resolve().name
        if folders.count(series.folder) > 1:
            name = f"{name}_{number - folders.index(series.folder) + 1}"
        subject = parts[0] if parts else name
        cases.append((Case.found(name, (ChannelFile(series.files[0]),), subject=subject), series.modality))
    return sorted(cases, key=lambda pair: pair[0].id)
