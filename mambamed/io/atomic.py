"""Atomic writes: a temporary file in the folder of the target, flushed to disk and then renamed.

If the process is killed, the target is either the complete old file or the complete new one. The names of
temporary files begin with `.tmp-`, so leftovers are never mistaken for results.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from mambamed.errors import RunError
from mambamed.io.ledger import NO_LINK, enter, may_replace
from mambamed.io.write_errors import cannot_write

TEMPORARY_PREFIX = ".tmp-"
TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}")
_each_flushed: ContextVar[bool] = ContextVar("each_flushed", default=True)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; it gets its name when the block ends without an error.

    Parent folders are created.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
        RecipeError: the file belongs to somebody else (`io.ledger`).
    """
    path = Path(path)
    try:
        enter(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the target's name, which could make it longer than 255 bytes.
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
            raise RunError(f"{path}: only part of {size} bytes was written. Free disk space and run again.")
        try:
            if may_replace(path, temporary):
                temporary.replace(path)
            else:
                temporary.unlink()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if _each_flushed.get():
            _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Check before any work that a file or folder can be written, with a file made and removed beside it.

    Args:
        path: an output file or folder; where it does not exist, the nearest folder above it is tried,
            and nothing is created.

    Raises:
        RunError: it cannot be written, or a file is in the place of a folder above it.
    """
    path = Path(path)
    try:
        folder = path if path.is_dir() else path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        trial = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        try:
            trial.write_bytes(b"x")
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def flushed_together() -> Iterator[None]:
    """Within the block, rename files into place without flushing each one (10 ms per file).

    Nothing is lost if the process is killed, but a power failure may lose files. Call `flush_all` before
    writing the file that marks the others as complete. On systems without `os.sync`, each file is flushed.
    """
    token = _each_flushed.set(not hasattr(os, "sync"))
    try:
        yield
    finally:
        _each_flushed.reset(token)


def flush_all() -> None:
    """Flush all written files to disk."""
    if hasattr(os, "sync"):
        os.sync()


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write bytes atomically; errors are those of `open_atomic`."""
    try:
        with open_atomic(path) as file:
            file.write(data)
    except RunError as error:
        raise RunError(f"{error} {len(data)} bytes are needed.") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with plain newlines, atomically; bytes of names that are not UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def append_text(path: Path, text: str) -> None:
    """Append UTF-8 text to a log file; errors are those of `open_atomic`."""
    try:
        with open_log(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise cannot_write(path, error) from error


def open_log(path: Path) -> BinaryIO:
    """Open a log file for appending bytes; errors are those of `open_atomic`."""
    try:
        enter(path)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_LINK, 0o666), "ab")
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of killed processes. Call it only while holding the folder's lock."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if TEMPORARY.fullmatch(leftover.name):
            with suppress(OSError):
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself, where the system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # not supported by some network file systems
            raise
    finally:
        os.close(descriptor)
