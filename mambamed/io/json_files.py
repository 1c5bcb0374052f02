"""Read JSON files, with errors by file and line, and write them atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mambamed.io.atomic import write_text
from mambamed.io.json_text import json_text, parse_json
from mambamed.io.members import Source
from mambamed.io.text_files import read_text


def read_json(path: Source) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: absent, unreadable, not JSON (with line and column), duplicate keys, nested too deep.
    """
    return parse_json(read_text(path), path)


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON atomically; keys keep their order, NaN and infinities become `NaN`, `Infinity`."""
    write_text(path, json_text(document))
