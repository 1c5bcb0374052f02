"""Find the images to predict: a file, a folder of files or of case folders, or a list."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mambamed.cases import TWO_OF_ONE_ID, Case, ChannelFile, differ_in_case_alone
from mambamed.converters import bids, brats, case_list, dicom, nested, nnunet, prepared
from mambamed.converters.accounting import account_of
from mambamed.documents.agreement import Naming, disagreement
from mambamed.documents.foreign.dataset_json import ChannelNames
from mambamed.errors import DatasetError
from mambamed.io.dicom import is_dicom
from mambamed.io.images import case_id_of, images_by_id
from mambamed.schema_errors import repeated, some_of

log = logging.getLogger("mambamed")

_LAYOUTS = (
    "CASE.nii.gz, CASE_0000.nii.gz, BraTS case folders, DICOM series, BIDS (sub-*/anat), and images in "
    "subfolders that are named by the channels"
)
_WHAT = "Give NIfTI, NRRD, MetaImage or DICOM, a folder of them, or a list of cases."


def find_inputs(source: Path, channels: Sequence[str], *, incomplete: bool = False) -> list[Case]:
    """Find the cases to predict, with the channels of the model.

    The layouts of a folder, in this order: nnU-Net's numbered channels (`CASE_0000.nii.gz`), if a 0000
    exists; BraTS modalities, if the model uses all four; one file per case, with several channels in its
    fourth axis; BraTS modalities, if the model uses some; DICOM, one series per case; BIDS; images in
    subfolders, see `nested`.

    Args:
        source: an image, a folder, or a list of cases (.csv, .tsv, .json); see `case_list`.
        channels: the model's channel names, in order.
        incomplete: whether channels may be missing in all cases: a list without their columns, or numbered
            files without 0000. What is missing in a case is its `fault` nevertheless.

    Returns: Cases without labels, sorted by id; a missing or additional channel is the case's `fault`.

    Raises DatasetError: nothing to predict, two files of one case, or a `dataset.json` that numbers the
        channels otherwise than the model.
    """
    cases = _find(source, channels, incomplete)
    for one, other in differ_in_case_alone(case.id for case in cases):
        log.warning(
            "%s: %s and %s differ only in capital letters, which some file systems ignore", source, one, other
        )
    return cases


def _find(source: Path, channels: Sequence[str], incomplete: bool) -> list[Case]:
    if source.is_file():
        if case_list.recognizes(source):
            return _checked(case_list.find_cases(source, channels, incomplete), source)
        if case_id_of(source) is None and is_dicom(source):
            case = Case.found(source.resolve().parent.name, (ChannelFile(source),))
            return _one_series_each([case], channels, source)
        case_id = case_id_of(source)
        if case_id is None:
            raise DatasetError(f"{source}: is not an image. {_WHAT}")
        _check_numbers(source.parent, channels)
        return [_case_of_file(case_id, source, channels)]
    if not source.is_dir():
        raise DatasetError(f"{source}: no such file or folder. Check the path.")
    folder = source / "imagesTs" if (source / "imagesTs").is_dir() else source
    numbered = nnunet.numbered_channels(folder)
    # "patient_0001.nii.gz" alone is a patient; "patient_0000.nii.gz" is the first channel of one.
    later = incomplete and any(0 < n < len(channels) for files in numbered.values() for n in files)
    if later or any(0 in files for files in numbered.values()):
        _check_numbers(folder, channels)
        by_key = {i: {f"{n:04d}": path for n, path in files.items()} for i, files in numbered.items()}
        return _by_channel(folder, by_key, [f"{n:04d}" for n in range(len(channels))], channels)
    if set(channels) == set(brats.CHANNELS) and (by_modality := _modalities(folder, channels)):
        return _by_channel(folder, by_modality, channels, channels)
    if images := images_by_id(folder.glob("*"), folder):
        _check_numbers(folder, channels)
    cases = [_case_of_file(case_id, path, channels) for case_id, path in images.items()]
    if not cases and set(channels) < set(brats.CHANNELS) and (by_modality := _modalities(folder, channels)):
        return _by_channel(folder, by_modality, channels, channels)
    if not cases and dicom.recognizes(folder):
        return _one_series_each([case for case, _ in dicom.series_cases(folder)], channels, folder)
    if not cases and prepared.recognizes(source):
        raise DatasetError(f"{source}: is a prepared dataset. Say which part to predict, e.g. --part test.")
    if not cases and not (source / "imagesTr").is_dir():
        cases = bids.find_cases(folder, channels) or nested.find_cases(folder, channels)
    if not cases:
        raise DatasetError(
            f"{folder}: no images to predict: {_expected_and_found(folder, channels)}. {_WHAT}"
        )
    return _checked(cases, folder)


def _expected_and_found(folder: Path, channels: Sequence[str]) -> str:
    """The channels that the model reads, and what is in the folder instead."""
    wanted = f"the model reads {len(channels)} channel{'s' * (len(channels) > 1)} ({', '.join(channels)})"
    if found := {name for files in brats.case_files(folder).values() for name in files} - {*brats.ANSWERS}:
        return f"{wanted}, and the cases in the folder have {len(found)} ({', '.join(sorted(found))})"
    entries = some_of((each.text for each in account_of(folder, ()).other), most=8)
    return f"{wanted}; looked for {_LAYOUTS}; found {entries or 'nothing'}"


def _modalities(folder: Path, channels: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Case id -> channel -> file of BraTS cases; other modalities and label maps are ignored."""
    found = brats.case_files(folder).items()
    return {case_id: {n: p for n, p in files.items() if n in channels} for case_id, files in found}


def _checked(cases: list[Case], source: Path) -> list[Case]:
    if not cases:
        raise DatasetError(f"{source}: no images to predict. Write one row per case.")
    if twice := repeated(case.id for case in cases):
        paths = [case.channels[0].path for case in cases if case.id == twice and case.channels]
        raise DatasetError(f"{source}: duplicate case {twice}: {some_of(map(str, paths))}. {TWO_OF_ONE_ID}")
    return cases


def _one_series_each(cases: list[Case], channels: Sequence[str], source: Path) -> list[Case]:
    if len(channels) != 1:
        raise DatasetError(
            f"{source}: DICOM does not say which series is which of the channels {', '.join(channels)}. "
            "Write a list of cases with one column per channel."
        )
    return _checked(cases, source)


def _check_numbers(folder: Path, channels: Sequence[str]) -> None:
    """Raise DatasetError if a `dataset.json` gives the name of a channel of the model to another number."""
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if names := ChannelNames.of(path) if len(channels) > 1 else ():
            sides = Naming.in_order(str(path), names), Naming.in_order("the model", channels)
            if line := disagreement(*sides, only_names=True):
                raise DatasetError(
                    f"{folder}: channels: numbers disagree: {line}. Write a list of cases with one column "
                    "per channel."
                )
            return


def _case_of_file(case_id: str, path: Path, channels: Sequence[str]) -> Case:
    volumes = [None] if len(channels) == 1 else range(len(channels))
    return Case.found(case_id, tuple(ChannelFile(path, volume) for volume in volumes))


def _by_channel(
    folder: Path, found: Mapping[str, Mapping[str, Path]], keys: Sequence[str], channels: Sequence[str]
) -> list[Case]:
    """Cases from files by channel key; a missing or additional key is the case's `fault`."""
    cases = []
    for case_id, files in sorted(found.items()):
        named_by = list(zip(keys, channels, strict=True))
        missing = {k: name for k, (key, name) in enumerate(named_by) if key not in files}
        extra = [path.name for key, path in files.items() if key not in keys]
        fault = None
        if extra:
            lines = f"{', '.join(extra)}: the model reads no such channel"
            fault = f"{case_id}: {lines}. Move it out of {folder}."
        elif missing:
            shown = ", ".join(f"{keys[k]} ({name})" for k, name in missing.items())
            fault = f"{case_id}: channel {shown} is missing in {folder}. Add it."
        order = tuple(ChannelFile(files[key]) for key in keys if key in files)
        lacking = missing if order and not extra else {}
        cases.append(Case.found(case_id, order, fault=fault, missing=lacking))
    return cases
