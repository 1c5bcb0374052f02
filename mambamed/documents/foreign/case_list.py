"""A list of cases in JSON, or the document next to a table of cases."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Labels, Text, Whole
from mambamed.io.members import Source
from mambamed.schema_errors import shortened

POINT_COLUMNS = ("points", "landmarks")
_OBJECTS = ("channels", "covariates")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose `channels` and `covariates` may be objects of their own."""
    flat = {key: value for key, value in row.items() if not isinstance(value, dict) or key in POINT_COLUMNS}
    for key in _OBJECTS:
        if isinstance(row.get(key), dict):
            flat |= row[key]
    for column, cell in flat.items():
        if isinstance(cell, list) or (isinstance(cell, dict) and column not in POINT_COLUMNS):
            raise ValueError(f"{column}: expected one value per case, got {shortened(cell)}")
    return flat


class CaseList(ForeignDocument):
    """Facts about all cases, and the cases."""

    REMEDY: ClassVar[str] = "Correct the file; see docs/datasets.md."

    name: Text = ""
    channels: dict[str, Literal["ct", "mri"]] = Field(default_factory=dict)
    labels: Labels | None = None
    regions: dict[str, tuple[Whole, ...]] = Field(default_factory=dict)
    landmarks: tuple[Text, ...] = ()
    classes: tuple[Text, ...] = ()
    cases: tuple[Annotated[dict[str, Any], AfterValidator(_flat)], ...] = ()
    """Column -> cell."""

    @classmethod
    def checked(cls, content: Any, path: Source | str) -> CaseList:
        """Check the document, or a plain list of cases; empty values are ignored."""
        content = {"cases": content} if isinstance(content, list) else content
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if value or key not in cls.model_fields}
        return super().checked(content, path)
