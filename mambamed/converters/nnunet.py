"""nnU-Net v2 raw: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

Source: nnU-Net's documentation/dataset_format.md. Labels may be regions: `{"whole tumor": [1, 2, 3]}`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mambamed.cases import BACKGROUND, Case, ChannelFile, DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.documents import read_json
from mambamed.io.images import case_id_of

_DOCUMENT = "dataset.json"
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def recognizes(source: Path) -> bool:
    """Whether `dataset.json` names channels and `imagesTr` holds numbered ones."""
    if not (source / _DOCUMENT).is_file() or not (source / "imagesTr").is_dir():
        return False
    document = read_json(source / _DOCUMENT)
    return isinstance(document, dict) and "channel_names" in document


def convert(source: Path) -> RawDataset:
    """The training cases.

    Raises:
        DatasetError: `dataset.json` is not nnU-Net's, or a case lacks a channel or its label.
    """
    file = source / _DOCUMENT
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get("channel_names"), dict):
        raise DatasetError(f"{file}: has no channel_names; it is not of nnU-Net v2")
    named = document["channel_names"]
    names = [str(named[key]) for key in sorted(named, key=int)]
    if len(set(names)) != len(names):
        raise DatasetError(f"{file}: two channels have the same name in {names}; rename one")
    channels = {name: "ct" if name.lower() == "ct" else "mri" for name in names}
    labels, regions = labels_and_regions(document.get("labels"), file)
    manifest = DatasetManifest(str(document.get("name") or source.name), channels, labels, regions)

    found = numbered_channels(source / "imagesTr")
    masks = {case_id_of(path): path for path in sorted((source / "labelsTr").glob("*")) if case_id_of(path)}
    faults, cases = [], []
    for case_id, files in sorted(found.items()):
        missing = [f"{case_id}_{number:04d}" for number in range(len(names)) if number not in files]
        if missing:
            faults.append(f"{source / 'imagesTr'}: {case_id}: {', '.join(missing)} is missing; add it")
        elif case_id not in masks:
            faults.append(f"{source / 'labelsTr'}: {case_id}: no label for this case; add it")
        else:
            order = tuple(ChannelFile(files[number]) for number in range(len(names)))
            cases.append(Case(case_id, order, masks[case_id]))
    if faults:
        raise DatasetError("\n".join(faults))
    return RawDataset(manifest, cases)


def numbered_channels(folder: Path) -> dict[str, dict[int, Path]]:
    """Case id -> channel number -> file, for names like `CASE_0000.nii.gz`.

    Raises:
        DatasetError: two files of one channel of one case.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.glob("*")):
        match = _CHANNEL.fullmatch(case_id_of(path) or "")
        if match:
            files = found.setdefault(match[1], {})
            if int(match[2]) in files:
                twice = files[int(match[2])].name
                raise DatasetError(f"{folder}: duplicate case {match[1]}: {twice} and {path.name}; keep one")
            files[int(match[2])] = path
    return found


def labels_and_regions(section: Any, file: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """nnU-Net's labels: numbers, or lists of numbers where regions overlap.

    Raises:
        DatasetError: neither, or an ignore label, which this mambamed does not know.
    """
    if not isinstance(section, dict) or not section:
        raise DatasetError(f"{file}: has no labels; add them")
    if "ignore" in section:
        raise DatasetError(f"{file}: an ignore label is not supported; remove it and the voxels that have it")
    numbers = {name: value for name, value in section.items() if isinstance(value, int)}
    lists = {name: value for name, value in section.items() if isinstance(value, list)}
    if len(numbers) + len(lists) != len(section) or not all(
        isinstance(v, int) for m in lists.values() for v in m
    ):
        raise DatasetError(f"{file}: labels {section} are neither numbers nor lists of numbers; correct them")
    if not lists:
        return numbers, {}
    regions = {name: tuple(members) for name, members in lists.items()}
    regions |= {name: (value,) for name, value in numbers.items() if value != 0}
    values = sorted({value for members in regions.values() for value in members})
    named = {value: name for name, value in numbers.items()}
    return {BACKGROUND: 0} | {named.get(v, f"label_{v}"): v for v in values}, regions
