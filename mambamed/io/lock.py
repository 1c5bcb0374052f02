"""Locks that allow only one process at a time to write to an output folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mambamed.errors import RunError
from mambamed.io.atomic import cannot_write, remove_leftovers

LOCK_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, name: str = LOCK_NAME, leftovers: bool = True) -> Iterator[None]:
    """Lock a folder for writing; the operating system releases the lock when the process ends.

    Args:
        folder: created with its parents.
        name: name of the lock file, if several processes each lock part of a folder.
        leftovers: whether to remove temporary files of killed processes; False if others write there too.

    Raises:
        RunError: another process holds the lock; the message names its id.
    """
    with _opened(folder, name) as file:
        if not _take(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(
                f"{folder}: process {owner} is writing there. Wait for it, or choose another folder."
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
    """Hold a lock file briefly; waits while another process holds it."""
    with (folder / name).open("a+") as file:
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
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(f"{folder}: process {owner} is writing there. Wait for it.")
        yield


def _opened(folder: Path, name: str) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / name).open("a+")
    except OSError as error:
        raise cannot_write(folder, error) from error


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether a process holds the folder's lock."""
    try:
        with (folder / name).open("r+") as file:
            return not _take(file)  # closing the file releases the lock
    except OSError:
        return False


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
