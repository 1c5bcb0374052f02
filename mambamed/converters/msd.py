"""Medical Segmentation Decathlon: `dataset.json` with a list of pairs, channels in the fourth axis.

Source: Antonelli et al. 2022, Nat. Commun. 13:4128, and the archives of the challenge.
"""

from __future__ import annotations

from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import ConvertOptions, kind_of_channel
from mambamed.documents.foreign.dataset_json import MsdDataset
from mambamed.documents.foreign.values import labels_and_regions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of
from mambamed.io.json_files import read_json

_DOCUMENT = "dataset.json"


def recognizes(source: Path) -> bool:
    """Whether `dataset.json` lists its training pairs."""
    file = source / _DOCUMENT
    return file.is_file() and MsdDataset.describes(read_json(file))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The training cases.

    Raises DatasetError: `dataset.json` is not from the Decathlon, or contains a path outside the folder.
    """
    file = source / _DOCUMENT
    document = MsdDataset.read(file)
    labels, regions = labels_and_regions(document.labels)
    names = list(document.modality.values())
    manifest = DatasetManifest.of(
        name=document.name or source.resolve().name,
        source=file,
        channels={name: kind_of_channel(name) for name in names},
        labels=labels,
        regions=regions,
    )
    cases = []
    for number, pair in enumerate(document.training):
        image = source / pair.image
        case_id = case_id_of(image)
        if case_id is None:
            if image.name.startswith("."):
                continue  # the archives of some tasks list hidden files of macOS
            raise DatasetError(
                f"{file}: training.{number}.image: expected the name of an image, got {pair.image!r}. "
                "Correct the file."
            )
        volumes = [None] if len(names) == 1 else range(len(names))
        channels_of = tuple(ChannelFile(image, volume) for volume in volumes)
        cases.append(Case.found(case_id, channels_of, label=source / pair.label))
    return RawDataset(manifest, sorted(cases, key=lambda case: case.id), documents=(file,))
