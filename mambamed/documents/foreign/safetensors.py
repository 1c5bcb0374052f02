"""The header of a safetensors file.

Source: the format's readme, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mambamed.documents.base import Count, Model
from mambamed.errors import MambamedError, ModelError
from mambamed.io.members import Source

_METADATA = "__metadata__"


class TensorEntry(Model):
    """Where a tensor lies."""

    dtype: Literal["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Annotated[tuple[Count, ...], Field(max_length=8)]
    data_offsets: tuple[Count, Count]
    """First byte, and the one after the last, from the end of the header on."""


class TensorTable(Model):
    """The header: name of a tensor -> its entry, and texts."""

    FAULT: ClassVar[type[MambamedError]] = ModelError
    REMEDY: ClassVar[str] = "Copy the file again."

    metadata: dict[str, str] = Field(default_factory=dict)
    tensors: dict[str, TensorEntry]

    @classmethod
    def checked(cls, content: Any, path: Source | str) -> TensorTable:
        """Check what `parse_json` gave; see `Model.checked`."""
        if isinstance(content, Mapping):
            tensors = {name: entry for name, entry in content.items() if name != _METADATA}
            content = {"metadata": content.get(_METADATA, {}), "tensors": tensors}
        return super().checked(content, path)

    def in_order(self) -> list[tuple[str, TensorEntry]]:
        """The tensors as they lie in the file."""
        return sorted(self.tensors.items(), key=lambda item: item[1].data_offsets)
