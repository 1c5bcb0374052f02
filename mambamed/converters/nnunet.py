"""nnU-Net raw, versions 1 and 2: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

Source: nnU-Net's documentation/dataset_format.md. Labels may be regions: `{"whole tumor": [1, 2, 3]}`;
voxels labeled "ignore" are neither learned nor scored.
Version 1 has `modality` in place of `channel_names`, names as values of `labels`, and a list `training`
whose images lie in several files; version 2 may list files under `dataset`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mambamed.cases import BACKGROUND, IGNORE, Case, ChannelFile, check_case_id
from mambamed.converters.msd import inside, labels_of
from mambamed.converters.options import Wishes, kind_of_channel
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of, images_by_id
from mambamed.io.json_files import read_json

_DOCUMENT = "dataset.json"
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


def recognizes(source: Path) -> bool:
    """Whether `dataset.json` names channels, and `imagesTr` holds numbered ones or it lists files."""
    if not (source / _DOCUMENT).is_file():
        return False
    document = read_json(source / _DOCUMENT)
    if not isinstance(document, dict) or not {"channel_names", "modality"} & set(document):
        return False
    if isinstance(document.get("dataset"), dict):
        return "channel_names" in document
    if any(0 in files for files in numbered_channels(source / "imagesTr").values()):
        # A Decathlon task may have a patient CASE_0000; its list then names that very file.
        return not _listed(source, document)
    return "channel_names" in document and "training" not in document and (source / "imagesTr").is_dir()


def _listed(source: Path, document: dict[str, Any]) -> bool:
    """Whether the images that a list `training` names are there."""
    pairs = document.get("training")
    first = pairs[0] if isinstance(pairs, list) and pairs else None
    return isinstance(first, dict) and (source / str(first.get("image"))).is_file()


def convert(source: Path, wishes: Wishes) -> RawDataset:
    """The training cases.

    Raises:
        DatasetError: `dataset.json` is not nnU-Net's.
    """
    file = source / _DOCUMENT
    document = read_json(file)
    if not isinstance(document, dict):
        raise DatasetError(f"{file}: is no document of nnU-Net")
    named = document.get("channel_names", document.get("modality"))
    if not isinstance(named, dict) or not all(str(key).isdigit() for key in named):
        raise DatasetError(f"{file}: has no channel_names; it is not of nnU-Net")
    names = [str(named[key]) for key in sorted(named, key=int)]
    if len(set(names)) != len(names):
        raise DatasetError(f"{file}: two channels have the same name in {names}; rename one")
    channels = {name: kind_of_channel(name) for name in names}
    section = document.get("labels")
    if isinstance(section, dict) and section and all(key.isdigit() for key in section):
        labels, regions = labels_of(section, file), {}
    else:
        labels, regions = labels_and_regions(section, file)
    try:
        manifest = DatasetManifest.of(
            name=str(document.get("name") or source.resolve().name),
            channels=channels,
            labels=wishes.spelled(labels),
            regions=regions,
        )
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from error
    if isinstance(document.get("dataset"), dict):
        return RawDataset(manifest, _listed_cases(source, document["dataset"], len(names), file))
    return RawDataset(manifest, _cases(source, len(names)))


def _cases(source: Path, channels: int) -> list[Case]:
    found = numbered_channels(source / "imagesTr")
    masks = images_by_id((source / "labelsTr").glob("*"), source / "labelsTr")
    cases = []
    for case_id, files in sorted(found.items()):
        missing = [f"{case_id}_{number:04d}" for number in range(channels) if number not in files]
        fault = None
        if missing:
            fault = f"{case_id}: channel {', '.join(missing)} is missing in {source / 'imagesTr'}; add it"
        elif case_id not in masks:
            fault = f"{case_id}: no label for this case in {source / 'labelsTr'}; add it"
        order = tuple(ChannelFile(files[number]) for number in range(channels) if number in files)
        cases.append(Case.found(case_id, order, label=masks.get(case_id), fault=fault))
    for case_id, path in masks.items():
        if case_id not in found:
            fault = f"{case_id}: no image for the label {path}; add it, or remove the label"
            cases.append(Case.found(case_id, (), label=path, fault=fault))
    return cases


def _listed_cases(source: Path, listed: dict[str, Any], channels: int, file: Path) -> list[Case]:
    cases = []
    for case_id, entry in sorted(listed.items()):
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list) or "label" not in entry:
            raise DatasetError(f"{file}: dataset: {case_id} has no images and label; write both")
        # nnU-Net itself allows paths out of the folder, but a document from elsewhere does not decide that.
        order = tuple(ChannelFile(inside(source, str(name), file)) for name in images)
        fault = f"{case_id}: {len(order)} of {channels} channels are listed in {file}; list all"
        label = inside(source, str(entry["label"]), file)
        try:
            check_case_id(case_id)
        except DatasetError as error:
            raise DatasetError(f"{file}: {error}") from error
        cases.append(Case(case_id, order, label, fault=None if len(order) == channels else fault))
    return cases


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
        DatasetError: neither.
    """
    if not isinstance(section, dict) or not section:
        raise DatasetError(f"{file}: has no labels; add them")
    numbers = {name: value for name, value in section.items() if isinstance(value, int)}
    lists = {name: value for name, value in section.items() if isinstance(value, list)}
    if len(numbers) + len(lists) != len(section) or not all(
        isinstance(v, int) for m in lists.values() for v in m
    ):
        raise DatasetError(f"{file}: labels {section} are neither numbers nor lists of numbers; correct them")
    if not lists:
        return numbers, {}
    regions = {name: tuple(members) for name, members in lists.items()}
    regions |= {name: (value,) for name, value in numbers.items() if value != 0 and name != IGNORE}
    ignored = {numbers[IGNORE]} if IGNORE in numbers else set()
    values = sorted({value for members in regions.values() for value in members} | ignored)
    named = {value: name for name, value in numbers.items()}
    return {BACKGROUND: 0} | {named.get(v, f"label_{v}"): v for v in values}, regions
