"""One writer a folder: two commands on one output folder never tear each other's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambamed.errors import RunError
from mambamed.io.atomic import remove_leftovers

LOCK_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the system frees it when the process ends, however it ends.

    Args:
        folder: made with its parents. Temporary files of killed writers in it are removed.

    Raises:
        RunError: another process holds it; the line names its id.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("a+")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    with file:
        if not _take(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(
                f"{folder}: process {owner} is writing there; wait for it, or choose another folder"
            )
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        remove_leftovers(folder)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process writes in this folder now."""
    try:
        with (folder / LOCK_NAME).open("r+") as file:
            return not _take(file)  # what is taken is given back with the file
    except OSError:
        return False


if os.name == "nt":
    import msvcrt

    def _take(file) -> bool:
        try:
            # A byte far behind the text, so that others can still read whose lock it is.
            file.seek(2**20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(file) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
