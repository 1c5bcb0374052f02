"""JSON text: parsed with errors by line, and written as mambamed writes it."""

from __future__ import annotations

import json
import re
from typing import Any

from mambamed.errors import DatasetError
from mambamed.io.members import Source
from mambamed.schema_errors import repeated, shortened

_SURROGATE = re.compile("[\ud800-\udfff]")  # a byte of a file name that is not UTF-8


def parse_json(text: str, path: Source) -> Any:
    """Parse JSON text; `path` is named in the errors, DatasetError as of `read_json`."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(pairs, path))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DatasetError(f"{path}: not valid JSON at {where}: {error.msg}. Correct the file.") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise DatasetError(f"{path}: a number has too many digits. Correct the file.") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: nested too deep. Check the path.") from error


def json_text(document: Any) -> str:
    r"""A document as `write_json` writes it; bytes of names that are not UTF-8 become text.

    >>> json_text("caf\udce9") == '"caf\\\\udce9"\n'
    True
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):x}", text) + "\n"


def json_to_print(document: Any) -> str:
    """A document as the command line prints it: indented, in ASCII."""
    return json.dumps(document, indent=2)


def json_line(document: Any) -> str:
    """A document as one line of text, e.g. to be hashed or kept in another file."""
    return json.dumps(document)


def _without_duplicates(pairs: list[tuple[str, Any]], path: Source) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        twice = repeated(key for key, _ in pairs)
        raise DatasetError(f"{path}: duplicate key {shortened(twice)}. Remove one of the two.")
    return document
