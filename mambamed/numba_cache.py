"""Compiling by numba with its cache on disk, or without it where no folder can be written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")
log = logging.getLogger(__name__)


def with_cache(make: Callable[[bool], Made], name: str) -> Made:
    """What `make(True)` gives, or `make(False)` where numba's cache finds no folder or a full disk.

    A read-only installation without a home is no fault: its kernels are compiled in every process, a second
    or two.

    Args:
        make: compiles, with numba's option `cache` as its argument.
        name: of what is compiled, for the log.
    """
    try:
        return make(True)
    except (RuntimeError, OSError) as error:  # RuntimeError: numba found no folder
        log.info("%s is compiled without numba's cache: %s", name, error)
        return make(False)


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
