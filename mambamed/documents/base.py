"""The base of all documents: strict types, a format number, and uniform messages about faults.

A `Document` is a JSON file that mambamed writes; a `ForeignDocument` is one of another program.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from mambamed.errors import DatasetError, MambamedError
from mambamed.io.json_files import read_json, write_json
from mambamed.io.members import Source
from mambamed.schema_errors import fact_of, keys_at, named

_MOST_FAULTS = 20  # listed by one error

Reading = TypeVar("Reading", bound="Model")
AnyModel = TypeVar("AnyModel", bound=BaseModel)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """A part of a document: immutable, with strict types (no text for a number).

    Attributes:
        FAULT: the error that is raised for an invalid file.
        REMEDY: the last sentence of its message.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )

    FAULT: ClassVar[type[MambamedError]] = DatasetError
    REMEDY: ClassVar[str] = "Correct the file."

    @classmethod
    def read(cls: type[Reading], path: Source) -> Reading:
        """Read and check a file.

        Raises:
            MambamedError: `FAULT`, one line per fault: `path: key: expected A, got B. What to do.`
        """
        try:
            content = read_json(path)
        except DatasetError as error:
            raise cls.FAULT(str(error)) from error
        return cls.checked(content, path)

    @classmethod
    def checked(cls: type[Reading], content: Any, path: Source | str) -> Reading:
        """Check parsed JSON; `path`, a file or a place in one, is named in the faults."""
        return validated(cls, content, path, cls.FAULT, cls.REMEDY)

    def changed(self: Reading, **changes: Any) -> Reading:
        """A copy with changed values, which are checked."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.model_dump(mode="json", by_alias=True)


class Document(Model):
    """A file that mambamed writes; `FORMAT` is the newest version that is read, and the one written.

    Attributes:
        NUMBERS: keys that hold such a version.
    """

    FORMAT: ClassVar[int] = 1
    NUMBERS: ClassVar[tuple[str, ...]] = ("format",)

    format: Size = 1
    """Version of this kind of file; files of mambamed 0.1.0 have none and count as 1."""

    @classmethod
    def checked(cls: type[Reading], content: Any, path: Source | str) -> Reading:
        """Check parsed JSON, after its format; see `Model.checked`."""
        newest = getattr(cls, "FORMAT", 1)
        for key in getattr(cls, "NUMBERS", ()):
            number = content.get(key) if isinstance(content, Mapping) else None
            if type(number) is int and number > newest:
                raise cls.FAULT(
                    f"{path}: {key}: expected at most {newest}, got {number}: a newer version of mambamed "
                    "wrote this file. Update mambamed."
                )
        return super().checked(content, path)  # type: ignore[misc]


class SparseDocument(Document):
    """A document that is written without its unset keys."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"format": self.format} | self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ForeignDocument(Model):
    """A file of another program: the keys that mambamed uses are checked, others are ignored."""

    model_config = ConfigDict(extra="ignore")


def validated(
    model: type[AnyModel],
    content: Any,
    path: Source | str,
    fault: type[MambamedError] = DatasetError,
    remedy: str = "Correct the file.",
) -> AnyModel:
    """Check parsed JSON, also for a `RootModel`; see `Model.checked`."""
    try:
        # As JSON text, so that lists become tuples although types are strict.
        return model.model_validate_json(to_json(content, inf_nan_mode="constants"))
    except ValidationError as error:
        raise fault("\n".join(fault_lines(error, model, str(path), remedy))) from error
    except PydanticSerializationError as error:
        fact = "nested too deeply, or has characters that are not Unicode"
        raise fault(f"{path}: content: {fact}. {remedy}") from error


def fault_lines(error: ValidationError, model: type[BaseModel], where: str, remedy: str = "") -> list[str]:
    """One line per fault of a validation: `where: key: expected A, got B. What to do.`"""
    faults = error.errors(include_url=False)
    lines = [_line(fault, model, where, remedy) for fault in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        lines.append(f"{where}: and {len(faults) - _MOST_FAULTS} more faults")
    return list(dict.fromkeys(lines))


def _line(fault: Any, model: type[BaseModel], where: str, remedy: str) -> str:
    location = tuple(fault["loc"])
    if fault["type"].startswith("union_tag"):
        location = (*location, fault["ctx"]["discriminator"].strip("'"))
    key = ".".join(map(named, location)) or "content"
    fact = fact_of(fault, keys_at(model, location[:-1]))
    return f"{where}: {key}: {fact}{'' if fact.endswith('?') else '.'} {remedy}".rstrip()
