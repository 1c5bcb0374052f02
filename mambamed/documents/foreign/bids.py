"""`dataset_description.json` of a BIDS dataset: that of the source, and that of derivatives.

Source: the BIDS specification 1.10, "Modality agnostic files".
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, RootModel

from mambamed.documents.base import Finite, ForeignDocument, Fraction, Model, validated
from mambamed.io.json_files import read_json
from mambamed.io.members import Source


class SourceDescription(ForeignDocument):
    """What is used of the dataset that a model reads."""

    Name: str
    BIDSVersion: str
    DatasetType: str = "raw"
    DatasetDOI: str | None = None
    License: str | None = None


class Generator(Model):
    """A program that made the derivatives, with one model; other keys are kept."""

    model_config = ConfigDict(extra="allow")

    Name: str
    Version: str | None = None
    Description: str | None = None


class DerivativeDescription(Model):
    """What mambamed writes next to derivatives; keys that a person added are kept."""

    model_config = ConfigDict(extra="allow")

    Name: str
    BIDSVersion: str
    DatasetType: str
    GeneratedBy: tuple[Generator, ...] = Field(min_length=1)
    SourceDatasets: tuple[dict[str, str], ...] = ()
    DatasetLinks: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without keys that have none."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


class Sidecar(Model):
    """The JSON file next to a derivative."""

    Description: str
    Sources: tuple[str, ...]
    """BIDS URIs of the images."""
    SpatialReference: str | None = None
    Manual: bool | None = None
    AnatomicalLandmarkCoordinates: dict[str, tuple[Finite, Finite, Finite]] | None = None
    """In voxels of the image, the first of which is 0, 0, 0."""
    LandmarkCoordinatesWorld: dict[str, tuple[Finite, Finite, Finite]] | None = None
    """Not a key of BIDS: the same in mm, RAS+."""
    LandmarkScores: dict[str, Finite] | None = None
    """Not a key of BIDS: how certain it is that a landmark is present, 0 to 1."""
    LandmarksAbsent: tuple[str, ...] | None = None
    """Not a key of BIDS: landmarks that were not found."""
    Class: str | None = None
    """Not a key of BIDS: the predicted class."""
    ClassProbabilities: dict[str, Fraction] | None = None
    """Not a key of BIDS: class -> probability."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without keys that have none."""
        return self.model_dump(mode="json", exclude_none=True)


class Column(Model):
    """What a column of a table holds; keys that a person added are kept."""

    model_config = ConfigDict(extra="allow")

    Description: str | None = None
    Levels: dict[str, str] | None = None
    Units: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without keys that have none."""
        return self.model_dump(mode="json", exclude_none=True)


class Columns(RootModel[dict[str, Column]]):
    """The JSON file of a table: column -> what it holds."""

    @classmethod
    def read(cls, path: Source) -> Columns:
        """Read and check the file; errors are those of `Model.read`."""
        return validated(cls, read_json(path), path)
