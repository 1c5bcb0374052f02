"""One writer a folder: two commands on one output folder never tear each other's files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambamed.errors import RunError
from mambamed.io.atomic import cannot_write, remove_leftovers

LOCK_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, name: str = LOCK_NAME, leftovers: bool = True) -> Iterator[None]:
    """Hold a folder for writing; the system frees it when the process ends, however it ends.

    Args:
        folder: made with its parents. Temporary files of killed writers in it are removed.
        name: of the lock's file, where several processes hold parts of a folder.
        leftovers: whether those temporary files are removed; False where others write beside this process.

    Raises:
        RunError: another process holds it; the line names its id.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a+")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        if not _take(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(
                f"{folder}: process {owner} is writing there; wait for it, or choose another folder"
            )
        try:
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
        except OSError as error:
            raise cannot_write(folder / name, error) from error
        if leftovers:
            remove_leftovers(folder)
        yield


@contextmanager
def waiting_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock file of a folder for a short work; waits while another process holds it."""
    with (folder / name).open("a+") as file:
        while not _take(file):
            time.sleep(0.05)
        yield


@contextmanager
def shared_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Keep the folder from a process that wants it whole; others may hold it so too.

    Where the system knows no shared locks (Windows), nothing is kept.

    Raises:
        RunError: another process holds the folder whole, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a+")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        if not _share(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(f"{folder}: process {owner} is writing there; wait for it")
        yield


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether a process writes in this folder now."""
    try:
        with (folder / name).open("r+") as file:
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

    def _share(file) -> bool:
        return True

else:
    import fcntl

    def _take(file, how: int = fcntl.LOCK_EX) -> bool:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _share(file) -> bool:
        return _take(file, fcntl.LOCK_SH)
