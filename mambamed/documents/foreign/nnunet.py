"""`dataset.json` of nnU-Net's raw datasets, versions 1 and 2.

Source: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Channels, InnerPath, Labels, Text


class NnunetFiles(ForeignDocument):
    """The files of a case."""

    images: list[InnerPath]
    label: InnerPath


class NnunetDataset(ForeignDocument):
    """The description of a dataset."""

    REMEDY: ClassVar[str] = "Correct the file, or choose another --format."

    name: Text = ""
    channel_names: Channels = Field(validation_alias=AliasChoices("channel_names", "modality"))
    labels: Labels
    dataset: Annotated[
        dict[str, NnunetFiles] | None, BeforeValidator(lambda v: v if isinstance(v, dict) else None)
    ] = None
    """The files of each case, if they are not in `imagesTr` and `labelsTr`."""

    @staticmethod
    def describes(content: Any) -> bool:
        """Whether a document names channels."""
        return isinstance(content, dict) and bool({"channel_names", "modality"} & set(content))


def lists_existing_images(content: dict[str, Any], source: Path) -> bool:
    """Whether the first image that the list `training` names exists, as in a task of the Decathlon."""
    pairs = content.get("training")
    first = pairs[0] if isinstance(pairs, list) and pairs else None
    return isinstance(first, dict) and (source / str(first.get("image"))).is_file()
