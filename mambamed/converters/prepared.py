"""The images from which a part of a prepared dataset was made, as cases to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.documents.parts import entries_of_part
from mambamed.documents.prepared import ImageFile, PreparedIndex
from mambamed.documents.splits import FoldName
from mambamed.errors import DatasetError, RecipeError


def recognizes(source: Path) -> bool:
    """Whether a folder is a prepared dataset."""
    return (source / "plan.json").is_file() and (source / "splits.json").is_file()


def images_of(source: Path) -> dict[str, tuple[ChannelFile, ...]]:
    """Case id -> the images that `prepare` read, for a prepared dataset; nothing for other folders."""
    if not recognizes(source):
        return {}
    return {
        case: _files(images) for case, images in PreparedIndex.read(source / "dataset.json").images.items()
    }


def cases_of_part(source: Path, part: str, folds: Sequence[FoldName], channels: Sequence[str]) -> list[Case]:
    """The cases of a part, with the images that `prepare` read; an image that is gone is a case's `fault`.

    Args:
        source: a prepared dataset.
        part, folds: see `entries_of_part`.
        channels: the model's channel names, in order.

    Raises:
        DatasetError: not a prepared dataset, or one of an earlier version, which did not record the images.
        RecipeError: the part is empty, or the dataset has other channels than the model.
    """
    if not recognizes(source):
        raise RecipeError(f"--part {part}: {source} is not a prepared dataset. Remove the option.")
    entries = entries_of_part(source, part, folds)
    index = PreparedIndex.read(source / "dataset.json")
    known = list(index.channels)
    if known != list(channels):
        raise RecipeError(
            f"{source}: has the channels {', '.join(known)}, the model {', '.join(channels)}. "
            "Use another model or dataset."
        )
    cases = []
    for entry in entries:
        if entry.id not in index.images:
            raise DatasetError(
                f"{source / 'dataset.json'}: does not say where the images of {entry.id} are. Run the same "
                "'mambamed prepare' command again; finished cases are kept."
            )
        files = _files(index.images[entry.id])
        needed = (path for file in files for path in (file.path, *file.files))
        gone = next((path for path in needed if not path.exists()), None)
        fault = None if gone is None else f"{gone}: no such file. Put it back, or prepare the dataset again."
        known_of_case = {"subject": entry.subject, "covariates": entry.covariates, "fault": fault}
        cases.append(Case(entry.id, files, **known_of_case))
    return cases


def _files(images: Sequence[ImageFile]) -> tuple[ChannelFile, ...]:
    return tuple(ChannelFile(Path(i.path), i.volume, tuple(map(Path, i.files))) for i in images)
