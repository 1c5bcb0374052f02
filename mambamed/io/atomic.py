"""The only way in which mambamed writes: a temporary name beside the target, flushed to disk, renamed.

Killed at any moment, the target is the old file or the new one, whole. A temporary file that a kill left
behind begins with `.tmp-` and is never mistaken for a result.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from mambamed.errors import RunError

TEMPORARY_PREFIX = ".tmp-"
_each_flushed: ContextVar[bool] = ContextVar("each_flushed", default=True)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; it appears under its name when the block ends without an error.

    Args:
        path: the target; its folder is made.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name of the target need not be in it: a long one would pass 255 bytes.
        temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        with temporary.open("xb") as file:
            try:
                yield file
                file.flush()
                if _each_flushed.get():
                    os.fsync(file.fileno())
                size = file.tell()
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        if temporary.stat().st_size != size:
            temporary.unlink()
            raise RunError(f"{path}: only a part of {size} bytes was written; free the disk and run again")
        try:
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if _each_flushed.get():
            _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunError:
    """The line for a file or folder that the system does not let us write."""
    return RunError(f"{path}: cannot be written: {_reason(error)}")


@contextmanager
def flushed_together() -> Iterator[None]:
    """Within the block, files are renamed into place without waiting for the disk, which takes 10 ms each.

    A killed process loses nothing by it, a power cut may. So call `flush_all` before the one file that
    declares the others complete. Where the system cannot flush all at once, each is flushed as ever.
    """
    token = _each_flushed.set(not hasattr(os, "sync"))
    try:
        yield
    finally:
        _each_flushed.reset(token)


def flush_all() -> None:
    """Wait until all that was written is on the disk."""
    if hasattr(os, "sync"):
        os.sync()


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write bytes atomically.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    try:
        with open_atomic(path) as file:
            file.write(data)
    except RunError as error:
        raise RunError(f"{error} ({len(data)} bytes needed)") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with plain newlines, atomically."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Add UTF-8 text to the end of a file: a log, the one kind of file that is not written whole.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that killed writers left in a folder. Only for its one writer (see `lock`)."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space and run the command again"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "no permission to write there; choose another folder"
    return f"{error.strerror or error}; choose another folder"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)
