"""The documents of a prepared dataset: dataset.json, cases/ID.json, fingerprint.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, AliasChoices, Field, model_validator

from mambamed.cases import check_case_id
from mambamed.documents.account import Account
from mambamed.documents.base import Count, Finite, Fraction, Model, Positive, Size, SparseDocument
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan
from mambamed.errors import DatasetError, MambamedError
from mambamed.io.json_files import write_json
from mambamed.io.members import Source
from mambamed.schema_errors import repeated
from mambamed.terminal import command_line

_REMEDY = "Prepare the dataset again."


def _safe(case_id: str) -> str:
    try:
        check_case_id(case_id)
    except DatasetError as error:
        raise ValueError(str(error)) from error
    return case_id


CaseId = Annotated[str, AfterValidator(_safe)]
LabelValue = Annotated[str, Field(pattern="^[0-9]{1,5}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
CaseFile = Literal["image", "label", "foreground", "reference"]
Shape = tuple[Size, Size, Size]
Corner = tuple[Count, Count, Count]
_Axis = Annotated[int, Field(ge=0, le=2)]
Row = tuple[Finite, Finite, Finite, Finite]


class ImageFile(Model):
    """An image of a case as it was found."""

    path: str
    """Absolute."""
    volume: Count | None = None
    """Index along the fourth axis of a 4-D file."""
    files: tuple[str, ...] = ()
    """Files of a DICOM series that lie in several folders."""


class CaseEntry(Model):
    """A case as dataset.json lists it."""

    id: CaseId
    subject: str
    """The person; cases of one subject are never on two sides of a split."""
    class_name: str | None = Field(
        default=None, validation_alias=AliasChoices("class", "class_name"), serialization_alias="class"
    )
    points: dict[str, tuple[Finite, Finite, Finite] | None] | None = None
    """Landmark name -> world position, mm, RAS+; null if the case lacks it; none if it is not annotated."""
    covariates: dict[str, str] = Field(default_factory=dict)
    """What else is known of the case, name -> text."""
    shape: Shape
    """`(X, Y, Z)` of the prepared grid."""
    channels: Size
    has_label: bool


class PreparedIndex(DatasetManifest):
    """dataset.json of a prepared dataset: the manifest and its cases."""

    REMEDY: ClassVar[str] = _REMEDY

    NUMBERS: ClassVar[tuple[str, ...]] = ("format", "prepared_format")

    prepared_format: Size = 1
    """Layout of the folder."""
    group_by: str | None = None
    """What the splits keep together: subject, case, or a column; not recorded by mambamed 0.1.0."""
    cases: tuple[CaseEntry, ...]
    images: dict[CaseId, tuple[ImageFile, ...]] = Field(default_factory=dict)
    """Case -> its images in the order of the channels, for `predict --part`; not recorded by 0.1.0."""
    account: Account | None = None
    """Which files of the source were read; not recorded by 0.1.0."""

    @model_validator(mode="after")
    def _cases_agree(self) -> PreparedIndex:
        if twice := repeated(case.id for case in self.cases):
            raise ValueError(f"cases: {twice} is listed twice, expected once")
        for case in self.cases:
            if case.channels != len(self.channels):
                raise ValueError(
                    f"cases: {case.id}: channels: expected {len(self.channels)}, got {case.channels}"
                )
        return self

    @classmethod
    def checked(cls, content: Any, path: Source | str) -> PreparedIndex:
        """Check what `read_json` gave; see `Document.checked`."""
        if isinstance(content, Mapping) and "prepared_format" not in content:
            raise DatasetError(
                f"{path}: prepared_format: missing: these files are not prepared yet. "
                f"Run {command_line('prepare', Path(str(path)).parent)} first."
            )
        return super().checked(content, path)

    @property
    def manifest(self) -> DatasetManifest:
        """The manifest without the cases, with the ranges of their numbers."""
        known: dict[str, Any] = {name: getattr(self, name) for name in DatasetManifest.model_fields}
        known["covariate_ranges"] = self._ranges()
        return DatasetManifest(**known)

    def _ranges(self) -> dict[str, tuple[float, float]]:
        values: dict[str, list[float]] = {}
        for case in self.cases:
            for name, text in case.covariates.items():
                with suppress(ValueError):
                    values.setdefault(name, []).append(float(text))
        finite = {name: [n for n in found if math.isfinite(n)] for name, found in values.items()}
        return {name: (min(found), max(found)) for name, found in finite.items() if found}


class GeometryRecord(Model):
    """See `preparation.grid.CaseGeometry`."""

    shape_native: Shape
    affine_native: tuple[Row, Row, Row, Row]
    axes: tuple[_Axis, _Axis, _Axis]
    flips: tuple[bool, bool, bool]
    crop_start: Corner
    crop_stop: Corner
    shape_prepared: Shape
    affine_prepared: tuple[Row, Row, Row, Row]

    @model_validator(mode="after")
    def _crop_fits(self) -> GeometryRecord:
        if len(set(self.axes)) != 3:
            raise ValueError(f"axes: expected 0, 1 and 2 in some order, got {list(self.axes)}")
        oriented = [self.shape_native[axis] for axis in self.axes]
        for key in ("affine_native", "affine_prepared"):
            affine = np.array(getattr(self, key))
            with np.errstate(all="ignore"):
                volume = np.linalg.det(affine[:3, :3])
            if not np.isfinite(volume) or volume == 0 or affine[3].tolist() != [0, 0, 0, 1]:
                raise ValueError(f"{key}: expected axes that span a volume, got {affine.tolist()}")
        for start, stop, size in zip(self.crop_start, self.crop_stop, oriented, strict=True):
            if not start < stop <= size:
                raise ValueError(f"crop_stop: expected more than {start} and at most {size}, got {stop}")
        return self


class LabelLoss(Model):
    """What preparation keeps of a label of a case; see `preparation.losses`."""

    voxels: Count
    """On the native grid."""
    in_crop: Count
    """Of these, in the crop box."""
    kept: Count
    """Of these, with the same label in the nearest prepared voxel."""
    components: Count | None = None
    """Connected components on the native grid (26 neighbors); None if not counted."""
    components_lost: Count = 0
    """Of these, without a voxel that is kept."""


class CaseRecord(SparseDocument):
    """cases/ID.json: written last, so it makes the case complete."""

    REMEDY: ClassVar[str] = _REMEDY

    settings: str
    """Hash of all that decides the prepared files."""
    entry: CaseEntry
    geometry: GeometryRecord
    voxels: dict[LabelValue, Count]
    """Label value -> voxels on the prepared grid."""
    losses: dict[LabelValue, LabelLoss] | None = None
    """Label value -> what preparation keeps of it; empty if it neither cropped nor resampled the case."""
    sha256: dict[CaseFile, Sha256]
    """File of the case -> digest."""

    @model_validator(mode="after")
    def _one_grid(self) -> CaseRecord:
        if self.entry.shape != (shape := self.geometry.shape_prepared):
            raise ValueError(f"entry: shape: expected that of the geometry, {shape}, got {self.entry.shape}")
        return self


class FingerprintCase(Model):
    """The facts about a case that planning uses."""

    id: CaseId
    shape_cropped: Shape
    spacing_mm: tuple[Positive, Positive, Positive]
    kept: Fraction
    """Share of the voxels that cropping kept."""
    voxels: dict[LabelValue, Count]
    """Label value -> voxels on the native grid."""


class Fingerprint(Model):
    """fingerprint.json, a list of cases; written for people."""

    cases: tuple[FingerprintCase, ...]

    def write(self, path: Path) -> None:
        """Write the list atomically."""
        write_json(path, [case.to_json() for case in self.cases])


def check_channels(plan: Plan, manifest: DatasetManifest, path: Source, fault: type[MambamedError]) -> None:
    """Raise `fault` if a plan does not normalize the channels of the manifest; `path` is that of the plan."""
    planned, channels = len(plan.normalization), len(manifest.channels)
    if planned != channels:
        raise fault(
            f"{path}: normalization: expected {channels} entries, one per channel, got {planned}. "
            f"{plan.REMEDY}"
        )
