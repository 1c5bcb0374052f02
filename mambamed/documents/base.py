"""What every document has in common: strict types, a format number, and one way to report faults.

A document is a JSON file that mambamed writes or reads back (`Document`), or one of another program of which
mambamed reads a few keys (`ForeignDocument`). Each is a pydantic model in a file of this folder.
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
from mambamed.schema_errors import fact_of, keys_at

_MOST_FAULTS = 20  # that one error lists; a file of another kind has thousands

Reading = TypeVar("Reading", bound="Model")
AnyModel = TypeVar("AnyModel", bound=BaseModel)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """A part of a document: values keep their JSON type (no text for a number) and do not change.

    Attributes:
        FAULT: the error that a file with faults raises.
        REMEDY: what the reader of that error can do; a full sentence.
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
    def checked(cls: type[Reading], content: Any, path: Source) -> Reading:
        """Check what `read_json` gave.

        Args:
            content: parsed JSON.
            path: named in the faults.
        """
        return validated(cls, content, path, cls.FAULT, cls.REMEDY)

    def changed(self: Reading, **changes: Any) -> Reading:
        """A copy with other values, which are checked."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.model_dump(mode="json", by_alias=True)


class Document(Model):
    """A file that mambamed writes. Unknown keys are faults; a newer format is rejected by its number.

    Attributes:
        FORMAT: the newest format that this version reads, and the one that it writes.
    """

    FORMAT: ClassVar[int] = 1

    format: Size = 1
    """Version of this kind of file; files of mambamed 0.1.0 have none and count as 1."""

    @classmethod
    def checked(cls: type[Reading], content: Any, path: Source) -> Reading:
        """Check what `read_json` gave; see `Model.checked`."""
        number = content.get("format") if isinstance(content, Mapping) else None
        newest = getattr(cls, "FORMAT", 1)
        if isinstance(number, int) and not isinstance(number, bool) and number > newest:
            raise cls.FAULT(
                f"{path}: format: expected at most {newest}, got {number}: a newer version of mambamed wrote "
                "this file. Update mambamed."
            )
        return super().checked(content, path)  # type: ignore[misc]


class SparseDocument(Document):
    """A document that is written without the keys that are not known."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"format": self.format} | self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ForeignDocument(Model):
    """A file of another program: the keys that mambamed uses are checked, others are ignored."""

    model_config = ConfigDict(extra="ignore")


def validated(
    model: type[AnyModel],
    content: Any,
    path: Source,
    fault: type[MambamedError] = DatasetError,
    remedy: str = "Correct the file.",
) -> AnyModel:
    """Check what `read_json` gave, also for a `RootModel`; see `Model.checked`."""
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
    key = ".".join(str(part) for part in location) or "content"
    fact = fact_of(fault, keys_at(model, location[:-1]))
    return f"{where}: {key}: {fact}{'' if fact.endswith('?') else '.'} {remedy}".rstrip()
