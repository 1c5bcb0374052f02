"""Synapse (BTCV): thirteen abdominal organs in CT, `img/img0001.nii.gz` and `label/label0001.nii.gz`.

The files may be in `RawData/Training`, in `averaged-training-...`, or up to three levels deeper; images of
`Testing`, which have no labels, are ignored.

Source: "Multi-Atlas Labeling Beyond the Cranial Vault", synapse.org syn3193805, whose list of labels this is.
"""

from __future__ import annotations

import re
from pathlib import Path

from mambamed.cases import TWO_OF_ONE_ID, Case, ChannelFile
from mambamed.converters.options import ConvertOptions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of

_NAME = re.compile(r"(img|label)(\d{4})(_avg)?")
_NAMES = (
    "background, spleen, right kidney, left kidney, gallbladder, esophagus, liver, stomach, aorta, "
    "inferior vena cava, portal vein and splenic vein, pancreas, right adrenal gland, left adrenal gland"
)
_LABELS = {name: value for value, name in enumerate(_NAMES.split(", "))}


def recognizes(source: Path) -> bool:
    """Whether there is an image with a label under the names of the challenge."""
    images, labels = _files(source)
    return bool(set(images) & set(labels))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The cases with labels, with the ids `img0001`, ... Raises DatasetError: two files of one case."""
    images, labels = _files(source)
    cases = []
    for number in sorted(set(images) | set(labels)):
        case_id = f"img{number}"
        if number not in images:
            fault = f"{case_id}: no image for the label {labels[number]}. Add it."
            cases.append(Case(case_id, (), labels[number], fault=fault))
            continue
        if number not in labels and "test" in images[number].parent.parent.name.lower():
            continue
        lacking = f"{case_id}: no label for this case, label{number}, in {source}. Add it."
        fault = None if number in labels else lacking
        cases.append(Case(case_id, (ChannelFile(images[number]),), labels.get(number), fault=fault))
    channel = options.one_channel("CT", "ct")
    name = source.resolve().name
    return RawDataset(DatasetManifest.of(name=name, channels=channel, labels=_LABELS), cases)


def _files(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Number of a case -> image; number -> label."""
    found: dict[str, dict[str, Path]] = {"img": {}, "label": {}}
    for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in sorted(source.glob(depth)):
            match = _NAME.fullmatch(case_id_of(path) or "")
            if match is None:
                continue
            files = found[match[1]]
            if match[2] in files:
                raise DatasetError(
                    f"{source}: duplicate case {match[1]}{match[2]}: {files[match[2]]} and "
                    f"{path}. {TWO_OF_ONE_ID}"
                )
            files[match[2]] = path
    return found["img"], found["label"]
