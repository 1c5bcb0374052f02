"""The one line for a file or folder that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

from mambamed.errors import RunError


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error for a file or folder that cannot be written."""
    return RunError(f"{path}: cannot be written: {_reason(error)}")


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full. Free disk space and run the command again."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "no permission. Choose another folder."
    return f"{error.strerror or error}. Choose another folder."
