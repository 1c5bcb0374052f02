"""`dataset.json` of the Medical Segmentation Decathlon (also used by AMOS) and of nnU-Net's raw datasets.

Source: nnU-Net's documentation/dataset_format.md, for its versions 1 and 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Channels, InnerPath, Labels, Text, Whole
from mambamed.io.json_files import read_json

_REMEDY = "Correct the file, or choose another --format."


class MsdPair(ForeignDocument):
    """A training case."""

    image: InnerPath
    label: InnerPath


class MsdDataset(ForeignDocument):
    """A task of the Decathlon."""

    REMEDY: ClassVar[str] = _REMEDY

    name: Text = ""
    modality: Channels = Field(validation_alias=AliasChoices("modality", "channel_names"))
    labels: Labels
    training: tuple[MsdPair, ...]

    @staticmethod
    def describes(content: Any) -> bool:
        """Whether a document lists its training cases, as those of the Decathlon do."""
        return isinstance(content, dict) and isinstance(content.get("training"), list)


class AmosDataset(ForeignDocument):
    """The labels of AMOS; None if the file has none. Its cases are those in the folders."""

    labels: Annotated[Labels | None, BeforeValidator(lambda v: v or None)] = None


class LabelNames(ForeignDocument):
    """Labels and regions of any of these documents, or of one that mambamed wrote."""

    REMEDY: ClassVar[str] = "Correct the file, or move it away from the masks."

    labels: Labels
    regions: dict[str, tuple[Whole, ...]] = Field(default_factory=dict)


class ChannelNames(ForeignDocument):
    """The channels of any of these documents."""

    REMEDY: ClassVar[str] = "Correct the file, or move it away from the images."

    channels: Channels = Field(validation_alias=AliasChoices("channel_names", "modality"))

    @classmethod
    def of(cls, path: Path) -> tuple[str, ...]:
        """The channels in the order of their numbers; empty if there is no such file, or it has no numbers.

        Raises DatasetError: the file is damaged.
        """
        content = read_json(path) if path.is_file() else None
        names = (
            (content.get("channel_names") or content.get("modality")) if isinstance(content, dict) else None
        )
        if not isinstance(names, dict) or not names:
            return ()
        return tuple(cls.checked({"channel_names": names}, path).channels.values())


class NnunetFiles(ForeignDocument):
    """The files of a case."""

    images: list[InnerPath]
    label: InnerPath


class NnunetDataset(ForeignDocument):
    """A raw dataset of nnU-Net; `dataset` has the files of each case if they are in other folders."""

    REMEDY: ClassVar[str] = _REMEDY

    name: Text = ""
    channel_names: Channels = Field(validation_alias=AliasChoices("channel_names", "modality"))
    labels: Labels
    dataset: Annotated[
        dict[str, NnunetFiles] | None, BeforeValidator(lambda v: v if isinstance(v, dict) else None)
    ] = None

    @staticmethod
    def describes(content: Any) -> bool:
        """Whether a document names channels."""
        return isinstance(content, dict) and bool({"channel_names", "modality"} & set(content))


def lists_existing_images(content: dict[str, Any], source: Path) -> bool:
    """Whether the first image of the list `training` exists, as in a task of the Decathlon."""
    pairs = content.get("training")
    first = pairs[0] if isinstance(pairs, list) and pairs else None
    return isinstance(first, dict) and (source / str(first.get("image"))).is_file()
