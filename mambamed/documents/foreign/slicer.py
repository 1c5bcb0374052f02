"""`.mrk.json`, the Markups of 3D Slicer.

Source: 3D Slicer, Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, field_validator
from pydantic.alias_generators import to_camel

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Text


class ControlPoint(ForeignDocument):
    model_config = ConfigDict(alias_generator=to_camel)

    label: Text = ""
    position: Any = None
    position_status: Text = "defined"


class Markup(ForeignDocument):
    """A list of points."""

    model_config = ConfigDict(alias_generator=to_camel)

    coordinate_system: Annotated[
        Literal["RAS", "LPS"], BeforeValidator(lambda v: v.upper() if isinstance(v, str) else v)
    ] = "LPS"
    # A unit is a word, or DICOM's list of code, scheme and meaning.
    coordinate_units: Annotated[
        Literal["mm"], BeforeValidator(lambda v: v[0] if isinstance(v, list) and v else v)
    ] = "mm"
    control_points: tuple[ControlPoint, ...] | None = None


class Markups(ForeignDocument):
    """The file."""

    REMEDY: ClassVar[str] = "Save the points again with 3D Slicer, in mm."

    markups: tuple[Markup, ...]

    @field_validator("markups")
    @classmethod
    def _one_system(cls, markups: tuple[Markup, ...]) -> tuple[Markup, ...]:
        systems = [markup.coordinate_system for markup in markups]
        if len(set(systems)) != 1:
            raise ValueError(f"expected lists of points in one coordinateSystem, got {systems}")
        return markups

    def places(self) -> Iterator[tuple[str, Any]]:
        """The points in `coordinateSystem`: None if "missing"; without those that are not placed yet."""
        for markup in self.markups:
            for point in markup.control_points or ():
                if point.position_status == "missing":
                    yield point.label, None
                elif point.position_status not in {"undefined", "preview"}:
                    yield point.label, point.position
