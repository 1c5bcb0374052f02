"""Medical Segmentation Decathlon: `dataset.json` with a list of pairs, channels in a fourth axis.

Source: Antonelli et al. 2022, Nat. Commun. 13:4128; the layout is that of the challenge's archives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mambamed.cases import Case, ChannelFile
from mambamed.converters.options import Wishes, kind_of_channel
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import DatasetError
from mambamed.io.images import case_id_of
from mambamed.io.json_files import read_json

_DOCUMENT = "dataset.json"


def recognizes(source: Path) -> bool:
    """Whether `dataset.json` lists its training pairs and names modalities."""
    if not (source / _DOCUMENT).is_file():
        return False
    document = read_json(source / _DOCUMENT)
    return isinstance(document, dict) and isinstance(document.get("training"), list)


def convert(source: Path, wishes: Wishes) -> RawDataset:
    """The training cases.

    Raises:
        DatasetError: `dataset.json` is not one of the Decathlon, or a path in it leaves the folder.
    """
    file = source / _DOCUMENT
    document = read_json(file)
    modalities = _section(document, ("modality", "channel_names"), file)
    if not all(key.isdecimal() for key in modalities):
        raise DatasetError(f"{file}: modality {modalities}: its keys are not the numbers of channels")
    names = [modalities[key] for key in sorted(modalities, key=int)]
    channels = {str(name): kind_of_channel(str(name)) for name in names}
    if len(channels) != len(names):
        raise DatasetError(f"{file}: two modalities have the same name in {names}; rename one")
    labels = wishes.spelled(labels_of(_section(document, ("labels",), file), file))
    try:
        manifest = DatasetManifest.of(
            name=str(document.get("name") or source.resolve().name), channels=channels, labels=labels
        )
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from error
    cases = []
    for pair in document["training"]:
        if not isinstance(pair, dict) or not {"image", "label"} <= set(pair):
            raise DatasetError(f"{file}: training: {pair!r} has no image and label; write both")
        image, label = (inside(source, str(pair[key]), file) for key in ("image", "label"))
        case_id = case_id_of(image)
        if case_id is None:
            if image.name.startswith("."):
                continue  # the archives of some tasks list macOS's own files
            raise DatasetError(f"{file}: {pair['image']!r} is not the name of an image; correct it")
        volumes = [None] if len(names) == 1 else range(len(names))
        channels_of = tuple(ChannelFile(image, volume) for volume in volumes)
        cases.append(Case.found(case_id, channels_of, label=label))
    return RawDataset(manifest, sorted(cases, key=lambda case: case.id))


def _section(document: Any, names: tuple[str, ...], file: Path) -> dict[str, Any]:
    for name in names:
        section = document.get(name) if isinstance(document, dict) else None
        if isinstance(section, dict) and section:
            return section
    raise DatasetError(f"{file}: has no {' or '.join(names)}; it is not one of the Decathlon")


def labels_of(section: dict[str, Any], file: Path) -> dict[str, int]:
    """Labels from `{"0": "background", "1": "Anterior"}`, or the other way round as nnU-Net v2 writes it.

    Raises:
        DatasetError: neither, or a name stands twice.
    """
    try:
        if all(key.isdigit() for key in section):
            if len(set(section.values())) != len(section):
                raise DatasetError(f"{file}: labels {section}: a name stands twice; give each its own")
            return {
                str(name): int(value) for value, name in sorted(section.items(), key=lambda kv: int(kv[0]))
            }
        return {str(name): int(value) for name, value in section.items()}
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{file}: labels {section} are not numbers and names; correct them") from error


def inside(source: Path, name: str, file: Path) -> Path:
    """A file of the dataset; a list in a file from elsewhere may not point out of its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DatasetError(f"{file}: path {name!r} leaves the folder; correct it")
    return source / name
