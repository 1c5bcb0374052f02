"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from mambamed.errors import DatasetError


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a text file without its byte-order mark; `errors` as in `bytes.decode`.

    Raises:
        DatasetError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text. Save the file in UTF-8.") from error
    except ValueError as error:  # a NUL character in the path
        raise DatasetError(f"{str(path)!r}: is not a path ({error}). Check the path.") from error
