"""The one line for a file or folder that cannot be written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from mambamed.errors import RunError
from mambamed.memory import gib


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error for a file or folder that cannot be written."""
    return RunError(f"{path}: cannot be written: {_reason(error)}")


def check_space(folder: Path, needed: int, what: str) -> None:
    """Reject an output, before the work, that is larger than what is free on the disk of its folder.

    Args:
        folder: may not exist yet.
        needed: bytes.
        what: takes them, in the plural, e.g. "the checkpoints".

    Raises:
        RunError: it is.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise RunError(
            f"{folder}: {what} need about {gib(needed)}, and {gib(free)} are free on this disk. Free disk "
            "space, or give another -o."
        )


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full. Free disk space and run the command again."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "no permission. Choose another folder."
    return f"{error.strerror or error}. Choose another folder."
