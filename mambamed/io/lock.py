"""Locks: one process at a time writes to an output folder, and none while another one reads it.

The operating system releases a lock when its process ends. A lock file holds the process id, nothing else; a
file of that name with other content, or a link, is somebody else's and is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mambamed.errors import RecipeError, RunError
from mambamed.io.atomic import remove_leftovers
from mambamed.io.ledger import NO_LINK
from mambamed.io.write_errors import cannot_write

LOCK_NAME = ".lock"
_LONGEST_ID = 20


@contextmanager
def folder_lock(folder: Path, name: str = LOCK_NAME, leftovers: bool = True) -> Iterator[None]:
    """Lock a folder for writing.

    Args:
        folder: created with its parents.
        name: name of the lock file, if several processes each lock part of a folder.
        leftovers: whether to remove temporary files of killed processes; False if others write there too.

    Raises:
        RunError: another process holds the lock; the message names its id.
    """
    with _opened(folder, name) as file:
        # The holder may have removed the file meanwhile, so that the lock would be nobody's.
        if not _take(file) or not os.path.samestat(os.fstat(file.fileno()), (folder / name).stat()):
            raise _in_use(folder, file)
        _sign(file, folder / name)
        if leftovers:
            remove_leftovers(folder)
        yield


@contextmanager
def waiting_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a lock file briefly; waits while another process holds it."""
    with _opened(folder, name) as file:
        while not _take(file):
            time.sleep(0.05)
        yield


@contextmanager
def shared_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Take a shared lock, which excludes only `folder_lock`. Does nothing on Windows, which has none.

    Raises:
        RunError: another process holds the folder's lock, or the folder cannot be written.
    """
    with _opened(folder, name) as file:
        if not _share(file):
            raise _in_use(folder, file)
        yield


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to an output folder of mambamed while the block reads it.

    Nothing is created: a folder without a lock file is nobody's output.

    Raises:
        RunError: another process writes there.
    """
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | NO_LINK)
    except OSError:
        yield
        return
    with os.fdopen(descriptor, "rb") as file:
        if not _share(file):
            raise _in_use(folder, file)
        yield


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether a process holds the folder's lock."""
    try:
        with os.fdopen(os.open(folder / name, os.O_RDWR | NO_LINK), "r+b") as file:
            return not _take(file)  # closing the file releases the lock
    except OSError:
        return False


def _in_use(folder: Path, file: BinaryIO) -> RunError:
    file.seek(0)
    owner = file.read(_LONGEST_ID).decode("ascii", "replace").strip() or "unknown"
    return RunError(f"{folder}: process {owner} is writing there. Wait for it, or choose another folder.")


def _sign(file: BinaryIO, path: Path) -> None:
    try:
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()).encode())
        file.flush()
    except OSError as error:
        raise cannot_write(path, error) from error


def _opened(folder: Path, name: str) -> BinaryIO:
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise RecipeError(f"{path}: is a link, not a lock file of mambamed. Move it, or give another -o.")
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666), "r+b")
    except OSError as error:
        raise cannot_write(folder, error) from error
    content = file.read(_LONGEST_ID + 1)
    if content and not content.isdigit():
        file.close()
        raise RecipeError(f"{path}: is not a lock file of mambamed. Move it, or give another -o.")
    return file


if os.name == "nt":
    import msvcrt

    def _take(file) -> bool:
        try:
            # A byte far beyond the text, so that other processes can still read the id.
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
