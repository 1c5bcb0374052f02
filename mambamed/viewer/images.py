"""The images of a case: its channels, with their names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mambamed.cases import ChannelFile
from mambamed.converters import brats, prepared
from mambamed.documents.foreign.dataset_json import ChannelNames
from mambamed.documents.prepared import PreparedIndex
from mambamed.errors import DatasetError, MambamedError
from mambamed.evaluation.backgrounds import Backgrounds
from mambamed.io.images import case_id_of, read_header
from mambamed.numerals import is_whole
from mambamed.viewer.content import Volume, channel_volume


class Images:
    """Finds the images of cases.

    Args:
        place: `--images`: an image, a folder, or a prepared dataset, whose own sources are shown; None: the
            images that a prepared dataset in `references` was made from, or those next to the references.
        references: folder of the references, if there are any.
        cases: ids of all cases.

    Raises:
        DatasetError: no such file or folder.
    """

    def __init__(self, place: Path | None, references: Path | None, cases: Iterable[str]) -> None:
        if place is not None and not place.exists():
            raise DatasetError(f"--images {place}: no such file or folder. Check the path.")
        self._file = place if place is not None and place.is_file() else None
        self._folder = None if self._file else place
        known = next((p for p in (place, references) if p is not None and prepared.recognizes(p)), None)
        self._index = None if known is None else PreparedIndex.read(known / "dataset.json")
        self._backgrounds = Backgrounds(
            self._folder if known is None else None, references or Path(), frozenset(cases)
        )
        self._has_place = self._folder is not None or references is not None

    def find(self, case: str, reference: Path | None) -> list[Volume]:
        """The channels of a case; none if there is no image.

        Args:
            reference: its label map, next to which images may lie.
        """
        if self._file is not None:
            return volumes_of(self._file, case)
        if self._index is not None and case in self._index.images:
            return listed_volumes(self._index, case)
        if not self._has_place or (reference is None and self._folder is None):
            return []
        paths = self._backgrounds.all(case, reference or Path(case))
        return [volume for path in paths for volume in volumes_of(path, case, len(paths))]


def listed_volumes(index: PreparedIndex, case: str) -> list[Volume]:
    """The images from which a case of a prepared dataset was made."""
    return [
        channel_volume(name, ChannelFile(Path(i.path), i.volume, tuple(map(Path, i.files))), kind)
        for (name, kind), i in zip(index.channels.items(), index.images.get(case, ()), strict=False)
    ]


def channel_volumes(channels: Mapping[str, str], files: Sequence[ChannelFile]) -> list[Volume]:
    """The channels of a case that a converter found; `channels` is name -> kind."""
    return [
        channel_volume(name, file, kind) for (name, kind), file in zip(channels.items(), files, strict=False)
    ]


def volumes_of(path: Path, case: str, count: int = 1) -> list[Volume]:
    """An image, or the volumes of a 4D file, one each; `count` is the number of images of the case."""
    name, kind = _name_of(path, case)
    volumes = 1
    with suppress(MambamedError):  # reading the image reports it
        volumes = read_header(path).volumes
    if volumes == 1:
        return [channel_volume(name, ChannelFile(path), kind)]
    names = numbered_names(path.parent)
    return [
        channel_volume(names[n] if count == 1 and n < len(names) else f"{name} {n}", ChannelFile(path, n))
        for n in range(volumes)
    ]


def _name_of(path: Path, case: str) -> tuple[str, str]:
    """Name and kind of the channel in a file, from its name and a document next to it."""
    stem = case_id_of(path) or path.name
    name = stem.removeprefix(case).strip("-_ ") or "image"
    if is_whole(name) and len(name) == 4:
        names = numbered_names(path.parent)
        name = names[int(name)] if int(name) < len(names) else f"channel {int(name)}"
    return name, "ct" if name.lower() in {"ct", "cta", "ncct"} else "mri" if name in brats.CHANNELS else ""


@functools.lru_cache(maxsize=64)
def numbered_names(folder: Path) -> tuple[str, ...]:
    """The names of numbered channels, from a dataset.json in the folder or above it."""
    for place in (folder, folder.parent):
        with suppress(MambamedError):
            if names := ChannelNames.of(place / "dataset.json"):
                return names
    return ()
