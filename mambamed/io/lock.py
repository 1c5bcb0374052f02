"""Locks: one process at a time writes to an output folder, and none while another one reads it.

The operating system releases a lock when its process ends. A lock file holds the process id, nothing else; a
file of that name with other content, or a link, is somebody else's and is left alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mambamed.errors import RecipeError, RunError
from mambamed.io.atomic import remove_leftovers
from mambamed.io.ledger import NO_LINK
from mambamed.io.write_errors import cannot_write

LOCK_NAME = ".lock"
_LONGEST_ID = 20
_PATIENCE = 1.0  # seconds: some locks are held only for the moment in which a document is written


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
    with _held(folder, name, _take, _PATIENCE) as file:
        _sign(file, folder / name)
        if leftovers:
            remove_leftovers(folder)
        yield


@contextmanager
def waiting_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a lock file briefly; waits while another process holds it."""
    with _held(folder, name, _take, math.inf):
        yield


@contextmanager
def shared_lock(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Take a shared lock, which excludes only `folder_lock`. Does nothing on Windows, which has none.

    Raises:
        RunError: another process holds the folder's lock, or the folder cannot be written.
    """
    with _held(folder, name, _share, _PATIENCE):
        yield


@contextmanager
def reading(*places: Path | None) -> Iterator[None]:
    """Keep other processes from writing to output folders of mambamed while the block reads them.

    Nothing is created: a folder without a lock file is nobody's output, and neither is a file.

    Raises:
        RunError: another process writes there.
    """
    with ExitStack() as held:
        for folder in filter(None, places):
            with suppress(OSError):
                descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | NO_LINK)
                file = held.enter_context(os.fdopen(descriptor, "rb"))
                if not _within(_PATIENCE, _share, file):
                    raise _in_use(folder, file)
                if any(is_locked(folder, part.name) for part in folder.glob(f"{LOCK_NAME}-*-of-*")):
                    raise RunError(f"{folder}: a part of it is being written. Wait for it.")
        yield


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether a process holds the folder's lock for writing."""
    try:
        with os.fdopen(os.open(folder / name, os.O_RDWR | NO_LINK), "r+b") as file:
            return not _share(file)  # closing the file releases the lock
    except OSError:
        return False


@contextmanager
def _held(folder: Path, name: str, take: Callable[[BinaryIO], bool], patience: float) -> Iterator[BinaryIO]:
    """A lock file that this process has locked."""
    while True:
        with _opened(folder, name) as file:
            if not _within(patience, take, file):
                raise _in_use(folder, file)
            if not _is_at(folder / name, file):
                continue  # its last holder has removed the file, so that the lock is nobody's
            yield file
            return


def _within(patience: float, take: Callable[[BinaryIO], bool], file: BinaryIO) -> bool:
    """Take a lock, or try again for some seconds: some locks are held only briefly."""
    until = time.monotonic() + patience
    while not (taken := take(file)) and time.monotonic() < until:
        time.sleep(0.05)
    return taken


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _in_use(folder: Path, file: BinaryIO) -> RunError:
    if _share(file):
        return RunError(f"{folder}: another command is reading it. Wait for it, or choose another folder.")
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

    def _take(file: BinaryIO) -> bool:
        try:
            # A byte far beyond the text, so that other processes can still read the id.
            file.seek(2**20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True

    def _share(file: BinaryIO) -> bool:
        return True

else:
    import fcntl

    def _take(file: BinaryIO, how: int = fcntl.LOCK_EX) -> bool:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _share(file: BinaryIO) -> bool:
        return _take(file, fcntl.LOCK_SH)
