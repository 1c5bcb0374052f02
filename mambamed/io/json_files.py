"""Read JSON files, with errors by file and line, and write them atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mambamed.errors import DatasetError
from mambamed.io.atomic import write_text
from mambamed.io.members import Source
from mambamed.io.text_files import read_text

MAX_BYTES = 256 * 2**20


def read_json(path: Source) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: absent, unreadable, not JSON (with line and column), duplicate keys, nested too deep.
    """
    try:
        if (path.stat().st_size if isinstance(path, Path) else path.size) > MAX_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_BYTES >> 20} MB. Check the path.")
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", error)
        raise DatasetError(f"{path}: cannot be read ({reason}). Check the path.") from error
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Source) -> Any:
    """Parse JSON text; `path` is named in the errors, which are those of `read_json`."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(pairs, path))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DatasetError(f"{path}: not valid JSON at {where}: {error.msg}. Correct the file.") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise DatasetError(f"{path}: a number has too many digits. Correct the file.") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: nested too deep. Check the path.") from error


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON atomically; keys keep their order, NaN and infinities become `NaN`, `Infinity`."""
    write_text(path, json_text(document))


def json_text(document: Any) -> str:
    """A document as `write_json` writes it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def json_to_print(document: Any) -> str:
    """A document as the command line prints it: indented, in ASCII."""
    return json.dumps(document, indent=2)


def json_line(document: Any) -> str:
    """A document as one line of text, e.g. to be hashed or kept in another file."""
    return json.dumps(document)


def _without_duplicates(pairs: list[tuple[str, Any]], path: Source) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DatasetError(f"{path}: duplicate key {twice!r}. Remove one of the two.")
    return document
