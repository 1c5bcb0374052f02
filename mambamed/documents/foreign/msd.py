"""`dataset.json` of the Medical Segmentation Decathlon, which AMOS also uses for its labels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Channels, InnerPath, Labels, Text


class MsdPair(ForeignDocument):
    """A training case."""

    image: InnerPath
    label: InnerPath


class MsdDataset(ForeignDocument):
    """The description of a task of the Decathlon."""

    REMEDY: ClassVar[str] = "Correct the file, or choose another --format."

    name: Text = ""
    modality: Channels = Field(validation_alias=AliasChoices("modality", "channel_names"))
    labels: Labels
    training: tuple[MsdPair, ...]

    @staticmethod
    def describes(content: Any) -> bool:
        """Whether a document lists its training cases, as those of the Decathlon do."""
        return isinstance(content, dict) and isinstance(content.get("training"), list)


class AmosDataset(ForeignDocument):
    """The description of AMOS; its cases are those in the folders."""

    labels: Annotated[Labels | None, BeforeValidator(lambda v: v or None)] = None
    """The challenge's, if there are none."""
