"""AMOS 2022: fifteen abdominal organs in CT (ids below 500) and MRI (ids from 500 on), in one folder.

`imagesTr/amos_0001.nii.gz`, `labelsTr/amos_0001.nii.gz`, `dataset.json`. CT and MRI are separate datasets:
`amos-ct` or `amos-mr`, or the kind of the recipe's channel ("ct" or "mri"). All cases in `imagesTr` are used,
listed in `dataset.json` or not, so those of `imagesVa`, whose labels came later, can be moved there.

Source: Ji et al. 2022, NeurIPS Datasets and Benchmarks (arXiv:2206.08023); zenodo.org/records/7155725.
"""

from __future__ import annotations

import re
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import ConvertOptions
from mambamed.documents.foreign.dataset_json import AmosDataset
from mambamed.documents.foreign.values import labels_and_regions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import images_by_id, labels_by_id

_CASE = re.compile(r"amos_(\d{4})")
_FIRST_MR = 500
_DOCUMENT = "dataset.json"
# The values of the labels, from 0, as the challenge's dataset.json spells them.
_NAMES = (
    "background, spleen, right kidney, left kidney, gall bladder, esophagus, liver, stomach, arota, "
    "postcava, pancreas, right adrenal gland, left adrenal gland, duodenum, bladder, prostate/uterus"
)
_LABELS = {name: value for value, name in enumerate(_NAMES.split(", "))}


def recognizes(source: Path) -> bool:
    """Whether `imagesTr` contains files with the names of the challenge."""
    return bool(_files(source / "imagesTr"))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The training cases of one kind.

    Raises DatasetError: CT and MRI without a choice, no case of the chosen kind, or two files of one case.
    """
    images, labels = _files(source / "imagesTr"), _files(source / "labelsTr")
    file = source / _DOCUMENT
    given = AmosDataset.read(file).labels if file.is_file() else None
    named, regions = labels_and_regions(given or _LABELS)
    kind = _kind(source, options, {_is_mr(case_id) for case_id in images})
    cases = []
    for case_id, path in sorted(images.items()):
        if _is_mr(case_id) == (kind == "mri"):
            lacking = f"{case_id}: no label for this case in {source / 'labelsTr'}. Add it."
            fault = None if case_id in labels else lacking
            cases.append(Case(case_id, (ChannelFile(path),), labels.get(case_id), fault=fault))
    if not cases:
        raise DatasetError(
            f"{source}: no {'MRI' if kind == 'mri' else 'CT'} cases of AMOS. Check the folder or --format."
        )
    manifest = DatasetManifest.of(
        name=source.resolve().name,
        source=file,
        channels=options.one_channel("MRI" if kind == "mri" else "CT", kind),
        labels=named,
        regions=regions,
    )
    return RawDataset(manifest, cases, documents=(file,))


def _files(folder: Path) -> dict[str, Path]:
    by_id = labels_by_id if folder.name.startswith("labels") else images_by_id
    found = by_id(folder.glob("amos_*"), folder)
    return {case_id: path for case_id, path in found.items() if _CASE.fullmatch(case_id)}


def _is_mr(case_id: str) -> bool:
    return int(case_id.removeprefix("amos_")) >= _FIRST_MR


def _kind(source: Path, options: ConvertOptions, present: set[bool]) -> str:
    """ "ct" or "mri", by the format, the recipe's channel, or the files."""
    if options.format in {"amos-ct", "amos-mr"}:
        return "ct" if options.format == "amos-ct" else "mri"
    kinds = list((options.channels or {}).values())
    if len(kinds) == 1:
        return kinds[0]
    if len(present) > 1:
        raise DatasetError(
            f"{source}: contains CT and MRI, which are separate datasets. Set --format amos-ct or "
            "amos-mr, or give a --recipe."
        )
    return "mri" if present == {True} else "ct"
