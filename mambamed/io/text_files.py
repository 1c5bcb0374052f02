"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from mambamed.errors import DatasetError
from mambamed.io.members import Source


def read_text(path: Source, errors: str = "strict") -> str:
    """Read a text file without its byte-order mark; `errors` as in `bytes.decode`.

    Raises:
        DatasetError: the file cannot be read, or is not UTF-8.
    """
    try:
        if isinstance(path, Path):
            return path.read_text(encoding="utf-8-sig", errors=errors)
        return path.read_bytes().decode("utf-8-sig", errors)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text. Save the file in UTF-8.") from error
    except ValueError as error:  # a NUL character in the path
        raise DatasetError(f"{str(path)!r}: is not a path ({error}). Check the path.") from error
