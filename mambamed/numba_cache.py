"""Compiling by numba with one cache on disk for all processes of a user.

numba looks for a folder in NUMBA_CACHE_DIR, then beside the source files, then in the user's cache folder.
Where none of them can be written (a container without a home, a read-only installation), a folder below the
temporary one is used that belongs to this user alone: the cache holds machine code.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")
log = logging.getLogger(__name__)


def with_cache(make: Callable[[bool], Made], name: str) -> Made:
    """What `make(True)` gives; `make(False)` where there is no folder for a cache, which is said once.

    Args:
        make: compiles, with numba's option `cache` as its argument.
        name: of what is compiled, for the log.
    """
    if not os.path.isabs(os.path.expanduser("~")):  # noqa: PTH111, PTH117 - numba would make a folder named "~"
        _share_private_folder()
    try:
        return make(True)
    except (RuntimeError, OSError) as error:  # RuntimeError: numba found no folder
        reason = error
    if _share_private_folder():
        try:
            return make(True)
        except (RuntimeError, OSError) as error:
            reason = error
    log.info("%s is compiled without numba's cache: %s", name, reason)
    _say_once()
    return make(False)


def private_folder() -> Path | None:
    """The folder below the temporary one that only this user can write; None where there can be none.

    A folder in its place that others own or can write is not used, as they could plant code in it.
    """
    if not hasattr(os, "getuid"):  # Windows: the user's own cache folder always exists
        return None
    try:
        folder = Path(tempfile.gettempdir()) / f"mambamed-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        state, above = folder.lstat(), folder.parent.stat().st_mode
    except OSError:
        return None
    own = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    kept = not above & 0o022 or above & stat.S_ISVTX  # else others could put another folder in its place
    return folder if own and kept else None


def cache_folder() -> Path | None:
    """Where numba keeps compiled code of this package; None if every process compiles it again."""
    path = compiled()(private_folder).stats.cache_path
    return Path(path) if path else None


def _share_private_folder() -> bool:
    """Let numba use the private folder, in this process and in those that it starts; whether it can."""
    if (folder := private_folder()) is None:
        return False
    from numba.core import config

    config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)  # type: ignore[attr-defined]
    return True


@cache
def _say_once() -> None:
    if multiprocessing.parent_process() is None:  # a worker's parent has said it
        warnings.warn(
            "numba finds no folder for compiled code, so that each process compiles again (about 20 s). "
            "Set NUMBA_CACHE_DIR to a folder that can be written.",
            RuntimeWarning,
            stacklevel=2,
        )


def compiled(*signatures: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.njit` that holds no lock (nogil) and keeps its machine code on disk if it can.

    Args:
        signatures: what is compiled at once, and nothing else ever; none: each kind of call when it comes.
        options: of `numba.njit`.
    """
    from numba import njit

    wanted = {"nogil": True, **options}

    def compile_function(function: Callable[..., Any]) -> Any:
        def make(cache: bool) -> Any:
            if signatures:
                return njit(list(signatures), cache=cache, **wanted)(function)
            return njit(cache=cache, **wanted)(function)

        return with_cache(make, function.__name__)

    return compile_function
