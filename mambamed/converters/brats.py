"""BraTS adult glioma, 2019-2024 namings: one folder a case, four modalities and `seg`.

| years | files | labels of `seg` |
|---|---|---|
| 2019-2021 | `CASE_t1.nii.gz`, `_t1ce`, `_t2`, `_flair`, `_seg` | 1 NCR, 2 ED, **4** ET |
| 2023, 2024 | `CASE-t1n.nii.gz`, `-t1c`, `-t2w`, `-t2f`, `-seg` | 1 NCR, 2 ED, 3 ET |

Channels carry the newer names for all years; the regions WT, TC, ET unite the labels of each.
"""

from __future__ import annotations

import re
from pathlib import Path

from mambamed.cases import Case, ChannelFile, DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of

CHANNELS = ("t1n", "t1c", "t2w", "t2f")
_MODERN = {"t1n": "t1n", "t1c": "t1c", "t2w": "t2w", "t2f": "t2f"}
_EARLIER = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_NAME = re.compile(r"(.+?)[-_](t1n|t1ce|t1c|t1|t2w|t2f|t2|flair|seg)", re.IGNORECASE)
# "BraTS-GLI-00005-001" is the second visit of subject "BraTS-GLI-00005".
_VISIT = re.compile(r"(BraTS-\w+-\d+)-\d{3}")


def recognizes(source: Path) -> bool:
    """Whether some case has the four modalities under BraTS names."""
    return any(set(CHANNELS) <= set(files) for files in case_files(source).values())


def convert(source: Path) -> RawDataset:
    """The cases that have any of the modalities.

    Raises:
        DatasetError: a case lacks a modality or its `seg`, or the two namings are mixed.
    """
    found = case_files(source)
    faults = []
    for case_id, files in found.items():
        missing = [name for name in (*CHANNELS, "seg") if name not in files]
        if missing:
            faults.append(f"{source}: {case_id}: {', '.join(missing)} is missing; add it or remove the case")
    if faults:
        raise DatasetError("\n".join(faults))
    earlier = {is_earlier_naming(files) for files in found.values()}
    if len(earlier) > 1:
        raise DatasetError(
            f"{source}: mixes the names of 2021 and 2023, whose labels differ; prepare them apart"
        )
    et = 4 if earlier == {True} else 3
    manifest = DatasetManifest(
        name=source.resolve().name,
        channels=dict.fromkeys(CHANNELS, "mri"),
        labels={"background": 0, "NCR": 1, "ED": 2, "ET": et},
        regions={"WT": (1, 2, et), "TC": (1, et), "ET": (et,)},
    )
    cases = []
    for case_id, files in sorted(found.items()):
        visit = _VISIT.fullmatch(case_id)
        channels = tuple(ChannelFile(files[name]) for name in CHANNELS)
        cases.append(Case(case_id, channels, files["seg"], subject=visit[1] if visit else ""))
    return RawDataset(manifest, cases)


def case_files(source: Path) -> dict[str, dict[str, Path]]:
    """Case id -> modality in the newer names (or "seg") -> file, in `source` and its case folders.

    Raises:
        DatasetError: two files of one modality of one case.
    """
    found: dict[str, dict[str, Path]] = {}
    for pattern in ("*", "*/*"):
        for path in sorted(source.glob(pattern)):
            match = _NAME.fullmatch(case_id_of(path) or "")
            if match:
                word = match[2].lower()
                name = word if word == "seg" else (_MODERN | _EARLIER)[word]
                files = found.setdefault(match[1], {})
                if name in files:
                    both = f"{files[name].name} and {path.name}"
                    raise DatasetError(f"{source}: duplicate case {match[1]}: {both}; keep one")
                files[name] = path
    return found


def is_earlier_naming(files: dict[str, Path]) -> bool:
    """Whether a case has the names of 2019-2021."""
    match = _NAME.fullmatch(case_id_of(files["t2f"]) or "")
    return bool(match and match[2].lower() == "flair")
