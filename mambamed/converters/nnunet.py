"""nnU-Net raw, versions 1 and 2: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

Source: nnU-Net's documentation/dataset_format.md. Labels may be regions: `{"whole tumor": [1, 2, 3]}`;
voxels labeled "ignore" are excluded from training and evaluation.
Version 1 has `modality` instead of `channel_names`, names as values of `labels`, and a list `training`;
version 2 may list files under `dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mambamed.cases import Case, ChannelFile, check_case_id
from mambamed.converters.options import ConvertOptions, kind_of_channel
from mambamed.documents.foreign.dataset_json import NnunetDataset, NnunetFiles, lists_existing_images
from mambamed.documents.foreign.values import labels_and_regions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of, images_by_id, is_slicer_segmentation, labels_by_id, put_once
from mambamed.io.json_files import read_json

_DOCUMENT = "dataset.json"
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


def recognizes(source: Path) -> bool:
    """Whether `dataset.json` names channels, and `imagesTr` has numbered ones or it lists files."""
    if not (source / _DOCUMENT).is_file():
        return False
    document = read_json(source / _DOCUMENT)
    if not NnunetDataset.describes(document):
        return False
    if isinstance(document.get("dataset"), dict):
        return "channel_names" in document
    if any(0 in files for files in numbered_channels(source / "imagesTr").values()):
        # A Decathlon task may have a patient CASE_0000, whose file is then listed.
        return not lists_existing_images(document, source)
    return "channel_names" in document and "training" not in document and (source / "imagesTr").is_dir()


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The training cases. Raises DatasetError: `dataset.json` is not nnU-Net's."""
    file = source / _DOCUMENT
    document = NnunetDataset.read(file)
    names = list(document.channel_names.values())
    labels, regions = labels_and_regions(document.labels)
    manifest = DatasetManifest.of(
        name=document.name or source.resolve().name,
        source=file,
        channels={name: kind_of_channel(name) for name in names},
        labels=labels,
        regions=regions,
    )
    if document.dataset is not None:
        cases = _listed_cases(source, document.dataset, len(names), file)
    else:
        cases = _cases(source, len(names))
    return RawDataset(manifest, cases, documents=(file,))


def _cases(source: Path, channels: int) -> list[Case]:
    found = numbered_channels(source / "imagesTr")
    masks = labels_by_id((source / "labelsTr").glob("*"), source / "labelsTr")
    cases = []
    for case_id, files in sorted(found.items()):
        missing = [f"{case_id}_{number:04d}" for number in range(channels) if number not in files]
        fault = None
        if missing:
            fault = f"{case_id}: channel {', '.join(missing)} is missing in {source / 'imagesTr'}. Add it."
        elif case_id not in masks:
            fault = f"{case_id}: no label for this case in {source / 'labelsTr'}. Add it."
        order = tuple(ChannelFile(files[number]) for number in range(channels) if number in files)
        cases.append(Case.found(case_id, order, label=masks.get(case_id), fault=fault))
    for case_id, path in masks.items():
        if case_id not in found:
            fault = f"{case_id}: no image for the label {path}. Add it, or move the label elsewhere."
            cases.append(Case.found(case_id, (), label=path, fault=fault))
    return cases


def _listed_cases(source: Path, listed: Mapping[str, NnunetFiles], channels: int, file: Path) -> list[Case]:
    cases = []
    for case_id, files in sorted(listed.items()):
        try:
            check_case_id(case_id)
        except DatasetError as error:
            raise DatasetError(f"{file}: dataset: {error}") from error
        # nnU-Net allows paths outside the folder; here they are rejected for security.
        order = tuple(ChannelFile(source / name) for name in files.images)
        lacking = f"{case_id}: {len(order)} of {channels} channels are listed in {file}. List all."
        fault = None if len(order) == channels else lacking
        cases.append(Case(case_id, order, source / files.label, fault=fault))
    return cases


def numbered_channels(folder: Path) -> dict[str, dict[int, Path]]:
    """Case id -> channel number -> file, for names like `CASE_0000.nii.gz`.

    Raises DatasetError: a channel of a case has two files.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.glob("*")):
        match = _CHANNEL.fullmatch(case_id_of(path) or "")
        if match and not is_slicer_segmentation(path):
            put_once(found.setdefault(match[1], {}), int(match[2]), path, match[1], folder)
    return found


def channel_files(folder: Path) -> dict[str, dict[int, Path]]:
    """`numbered_channels` if there is a channel 0, else each image as channel 0 of its own case.

    Raises DatasetError: two images of one case or channel.
    """
    numbered = numbered_channels(folder)
    if any(0 in files for files in numbered.values()):
        return numbered
    return {case_id: {0: path} for case_id, path in images_by_id(folder.glob("*"), folder).items()}
