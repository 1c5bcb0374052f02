"""BraTS 2017-2024: one folder per case with four modalities and `seg`, or t1c and `gtv` (radiotherapy).

| years | files | labels of `seg` |
|---|---|---|
| 2017-2021 | `CASE_t1.nii.gz`, `_t1ce`, `_t2`, `_flair`, `_seg` | 1 NCR, 2 ED, **4** ET |
| 2023, 2024: GLI SSA MEN MET PED | `CASE-t1n.nii.gz`, `-t1c`, `-t2w`, `-t2f`, `-seg` | 1 NCR, 2 ED, 3 ET |
| 2024: GLI after treatment (visits from 100 on) | the same | 1 NCR, 2 ED, 3 ET, 4 RC |
| 2024: PED (`brats-ped2024`) | the same | 1 ET, 2 NET, 3 CC, 4 ED |
| 2024: MEN-RT (`brats-men-rt`) | `CASE_t1c.nii.gz`, `_gtv` | 1 GTV |

Channels have the newer names for all years; the regions are WT, TC and ET.

Source: the challenges' data pages (synapse.org, syn51156910 for 2023, syn53708249 for 2024); de Verdier
et al. 2024, arXiv:2405.18368 (GLI 2024); Kazerooni et al. 2024, arXiv:2404.15009 (PED 2024); LaBella et
al. 2024, arXiv:2405.18383 (MEN-RT 2024).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import ConvertOptions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of, put_once

CHANNELS = ("t1n", "t1c", "t2w", "t2f")
_EARLIER = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
ANSWERS = ("seg", "gtv")
_NAME = re.compile(r"(.+?)[-_](t1n|t1ce|t1c|t1|t2w|t2f|t2|flair|seg|gtv)", re.IGNORECASE)
# "BraTS-GLI-00005-001" is the second visit of subject "BraTS-GLI-00005".
_VISIT = re.compile(r"(BraTS-\w+-\d+)-(\d{3})")
# "BraTS-MEN-RT-0003-1" is the first plan of "BraTS-MEN-RT-0003".
_PLAN = re.compile(r"(BraTS-MEN-RT-\d+)-\d+")
# "BraTS19_TCIA01_131_1" is the first scan of "BraTS19_TCIA01_131".
_EARLIER_SCAN = re.compile(r"(BraTS1[789]_.+)_\d+")
_FIRST_VISIT_AFTER_TREATMENT = 100
# One segmentation of 2020 has another name: BraTS20_Training_355/W39_1998.09.19_Segm.nii
_CLINICS_NAME = re.compile(r".+_Segm", re.IGNORECASE)


def recognizes(source: Path) -> bool:
    """Whether a case with a BraTS id has files with BraTS names.

    Other files may have such names, but other labels; they require `--format`.
    """
    named = {i: files for i, files in case_files(source).items() if i.lower().startswith("brats")}
    return any(set(_channels_of([case_id])) <= set(files) for case_id, files in named.items())


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The cases with any of the modalities; missing files are reported as the case's `fault`.

    Raises DatasetError: file names of 2021 and 2023 are mixed, or a modality of a case has two files.
    """
    found = case_files(source)
    earlier = {is_earlier_naming(files) for files in found.values() if set(files) - {"seg", "t1c"}}
    if len(earlier) > 1:
        raise DatasetError(
            f"{source}: contains file names of BraTS 2021 and 2023, whose labels differ. Prepare "
            "them separately."
        )
    labels, regions = answers_of(source, found, is_earlier=earlier == {True}, format=options.format)
    names = _channels_of(found, options.format)
    answer = "gtv" if len(names) == 1 else "seg"
    manifest = DatasetManifest.of(
        name=source.resolve().name,
        source=source,
        channels=dict.fromkeys(names, "mri"),
        labels=labels,
        regions=regions,
    )
    cases = []
    for case_id, files in sorted(found.items()):
        missing = [name for name in (*names, answer) if name not in files]
        fault = f"{case_id}: {', '.join(missing)} is missing in {source}. Add it, or move the case elsewhere."
        channels = tuple(ChannelFile(files[name]) for name in names if name in files)
        known = {"label": files.get(answer), "subject": subject_of(case_id)}
        cases.append(Case.found(case_id, channels, **known, fault=fault if missing else None))
    return RawDataset(manifest, cases)


def _channels_of(case_ids: Collection[str], format: str = "auto") -> tuple[str, ...]:
    """All four, or only that of radiotherapy."""
    return ("t1c",) if _for_radiotherapy(case_ids, format) else CHANNELS


def _for_radiotherapy(case_ids: Collection[str], format: str) -> bool:
    named = all(case_id.upper().startswith("BRATS-MEN-RT") for case_id in case_ids)
    return format == "brats-men-rt" or (named and format != "brats-ped2024")


def answers_of(
    source: Path, case_ids: Collection[str], *, is_earlier: bool, format: str = "auto"
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels and regions of the year and population, by the table above.

    Args:
        source: folder, whose name may contain the year 2024.
        is_earlier: whether the files have the names of 2017 to 2021.
    """
    if _for_radiotherapy(case_ids, format):
        return {"background": 0, "GTV": 1}, {}
    children = all(case_id.upper().startswith("BRATS-PED") for case_id in case_ids)
    if format == "brats-ped2024" or (format == "auto" and children and "2024" in source.resolve().name):
        # Regions of the challenge: the tumor core is everything except the edema.
        labels = {"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}
        return labels, {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,)}
    et = 4 if is_earlier else 3
    labels = {"background": 0, "NCR": 1, "ED": 2, "ET": et}
    regions = {"WT": (1, 2, et), "TC": (1, et), "ET": (et,)}
    visits = [_VISIT.fullmatch(case_id) for case_id in case_ids]
    if not is_earlier and any(match and int(match[2]) >= _FIRST_VISIT_AFTER_TREATMENT for match in visits):
        return labels | {"RC": 4}, regions | {"RC": (4,)}
    return labels, regions


def subject_of(case_id: str) -> str:
    """The subject of a case, whose visits must stay on the same side of a split.

    >>> subject_of("BraTS-GLI-00005-001"), subject_of("BraTS19_TCIA01_131_1"), subject_of("BraTS2021_00005")
    ('BraTS-GLI-00005', 'BraTS19_TCIA01_131', 'BraTS2021_00005')
    """
    match = _VISIT.fullmatch(case_id) or _PLAN.fullmatch(case_id) or _EARLIER_SCAN.fullmatch(case_id)
    return match[1] if match else case_id


def case_files(source: Path) -> dict[str, dict[str, Path]]:
    """Case id -> modality in the newer names (or "seg", "gtv") -> file, up to two folders below `source`.

    Raises DatasetError: a modality of a case has two files.
    """
    found: dict[str, dict[str, Path]] = {}
    strange: list[Path] = []
    for path in sorted(p for pattern in ("*", "*/*", "*/*/*") for p in source.glob(pattern)):
        name = case_id_of(path) or ""
        match = _NAME.fullmatch(name)
        if match:
            word = match[2].lower()
            put_once(found.setdefault(match[1], {}), _EARLIER.get(word, word), path, match[1], source)
        elif _CLINICS_NAME.fullmatch(name):
            strange.append(path)
    for path in strange:
        if path.parent.name in found and "seg" not in found[path.parent.name]:
            found[path.parent.name]["seg"] = path
    return found


def is_earlier_naming(files: Mapping[str, Path]) -> bool:
    """Whether a case has the names of 2017-2021."""
    words = [_NAME.fullmatch(case_id_of(path) or "") for path in files.values()]
    return any(match and match[2].lower() in _EARLIER for match in words)
