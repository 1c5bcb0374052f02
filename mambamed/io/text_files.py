"""Text files in UTF-8."""

from __future__ import annotations

from pathlib import Path

from mambamed.errors import DatasetError
from mambamed.io.members import Source, opened

MAX_BYTES = 256 * 2**20  # a list of a million cases needs less


def read_text(path: Source, errors: str = "strict") -> str:
    """Read a text file without its byte-order mark; `errors` as in `bytes.decode`.

    Raises:
        DatasetError: the file cannot be read, is not UTF-8, or is larger than `MAX_BYTES`.
    """
    try:
        with opened(path) as (file, size):
            is_pipe = not size and isinstance(path, Path)
            data = b"" if size > MAX_BYTES else file.read(MAX_BYTES + 1 if is_pipe else size)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:  # a NUL character in the path
        raise DatasetError(f"{str(path)!r}: is not a path ({error}). Check the path.") from error
    if max(size, len(data)) > MAX_BYTES:
        raise DatasetError(f"{path}: larger than {MAX_BYTES >> 20} MB. Check the path.")
    try:
        text = data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text. Save the file in UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
