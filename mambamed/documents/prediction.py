"""The documents of predictions: run.json of an output folder, and the points of a case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mambamed.documents.account import Account
from mambamed.documents.base import (
    Count,
    Document,
    Finite,
    Fraction,
    Model,
    NotNegative,
    Positive,
    SparseDocument,
)
from mambamed.documents.prepared import CaseId, Sha256
from mambamed.documents.run import Provenance
from mambamed.errors import MambamedError, RecipeError

Position = tuple[Finite, Finite, Finite]
FileStamp = tuple[str, Count | None, int | None]


class StructureUncertainty(Model):
    """How uncertain a predicted structure is; None if it is not predicted."""

    expected_dice: Fraction | None
    """Dice that the calibrated probabilities predict."""
    entropy: Fraction | None
    """Mean over the structure, from 0 (certain) to 1."""
    disagreement: NotNegative | None
    """Of folds, mirrored copies and windows: mean over the structure, in nats."""


class CaseResult(Model):
    """The state of a case."""

    status: Literal["waiting", "done", "failed"]
    input: tuple[FileStamp, ...] | None = None
    """Name, size in bytes and modification time in ns of each channel's file."""
    missing: tuple[str, ...] = ()
    """Channels without a file, which the network read as zeros."""
    covariates: dict[str, str | None] = Field(default_factory=dict)
    """Covariates that were read, name -> text."""
    sha256: Sha256 | None = None
    """Digest of the file that holds the result."""
    seconds: NotNegative | None = None
    warnings: tuple[str, ...] = ()
    fault: str | None = None
    probabilities: tuple[Fraction, ...] | None = None
    """Of each class, in the order of the model."""
    uncertainty: dict[str, StructureUncertainty] | None = None
    """Only from `predict --uncertainty`: structure -> its numbers."""

    @model_validator(mode="after")
    def _says_why(self) -> CaseResult:
        if self.status == "failed" and self.fault is None:
            raise ValueError("fault: missing, although the status is failed")
        return self


class MemberRecord(Model):
    """A run that took part."""

    run: str
    """Name of its folder."""
    seed: int
    checkpoints: dict[str, Sha256]
    """fold_N -> digest of the checkpoint."""


class PredictionRecord(Provenance, SparseDocument):
    """run.json of an output folder: the finished cases, with their input, models and settings."""

    FAULT: ClassVar[type[MambamedError]] = RecipeError
    REMEDY: ClassVar[str] = "Give --overwrite or another output folder (-o)."

    version: str
    """Of mambamed."""
    settings: dict[str, Any] | None = None
    """All that decides the results in addition to the input; two records are compared by it as a whole."""
    labels: dict[str, Count] | None = None
    """Only from `predict`: label name -> value in the masks."""
    regions: dict[str, tuple[Count, ...]] | None = None
    """Only from `predict`: region name -> the labels it unites."""
    reasons: tuple[str, ...] = ()
    """What was chosen on this machine, and why."""
    account: Account | None = None
    """Which files of the input were read, by the last command."""
    cases: dict[CaseId, CaseResult]
    tables: dict[str, Sha256] = Field(default_factory=dict)
    """Digests of the files that are written after all cases, by name; none while they are written."""
    members: tuple[MemberRecord, ...] | None = None
    """Only from `classify`."""
    temperatures: tuple[Positive | None, ...] | None = None
    """Only from `classify`: of each network."""
    threshold: Fraction | None = None
    """Only from `classify`: probability from which the positive class is predicted."""


class Measured(Model):
    """A distance or an angle between landmarks."""

    value: Finite | None
    """None if one of the landmarks is absent."""
    unit: Literal["mm", "degrees"]


class PointFile(Document):
    """CASE.json: the landmarks of a case."""

    REMEDY: ClassVar[str] = "Predict the case again."

    coordinate_system: Literal["RAS"]
    unit: Literal["mm"]
    image: str
    """Name of the file that `voxels` refers to."""
    points: dict[str, Position | None]
    """Landmark -> world position, mm; None if it is absent."""
    voxels: dict[str, Position | None]
    """The same in voxels of the file, not rounded."""
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """Landmark -> how certain it is that the landmark is present."""
    thresholds: dict[str, Fraction]
    """Landmark -> score below which it counts as absent."""
    measures: dict[str, Measured] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_landmarks(self) -> PointFile:
        for key in ("voxels", "scores", "thresholds"):
            if (names := set(getattr(self, key))) != set(self.points):
                raise ValueError(f"{key}: expected the landmarks {sorted(self.points)}, got {sorted(names)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; `measures` only if there are any."""
        return self.model_dump(mode="json", exclude={"measures"} if not self.measures else None)


def record_files(folder: Path, name: str = "run") -> list[Path]:
    """The records of predictions in a folder: those of parts (`--shard`), sorted, then that of the whole.

    Args:
        name: "run", or that of a table of classes, e.g. "preds.run" next to preds.csv.
    """
    ours = re.compile(rf"{re.escape(name)}_\d+_of_\d+\.json")
    parts = sorted(path for path in folder.glob("*.json") if ours.fullmatch(path.name))
    whole = folder / f"{name}.json"
    return [*parts, whole] if whole.is_file() else parts


def records_of(predictions: Path) -> list[Path]:
    """The records next to predictions, which are a folder of files or a table of classes."""
    if predictions.is_dir():
        return record_files(predictions)
    return record_files(predictions.parent, f"{predictions.stem}.run")
