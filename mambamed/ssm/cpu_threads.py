"""Runs a compiled kernel on several threads, those of torch if possible.

torch's OpenMP workers spin for some milliseconds after each parallel operation. Separate threads would
compete with them for the cores (measured: a backward pass takes twice as long), so a kernel is passed to the
same OpenMP runtime through its C entry point `GOMP_parallel`, found in the library that torch has loaded.
Without it (macOS, Windows), Python threads call the kernel, which runs without the GIL.

A kernel is a C function of one address, that of a **table** of int64:

    next task, number of tasks, bytes per task, stamp, then for each task its arguments

Every thread takes the next task until none is left. Kernels never raise.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

HEADER = 4  # int64 before the first task
log = logging.getLogger(__name__)
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    """Threads do not exist in a forked child."""
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def workers() -> int:
    """Maximum number of parallel tasks: torch's number of threads; one in the worker of a data loader."""
    return max(1, torch.get_num_threads())


@functools.cache
def _gomp_parallel():
    """`GOMP_parallel(kernel, table, threads, flags)` of torch's own OpenMP library, or None."""
    if not sys.platform.startswith("linux"):
        return None
    home = Path(torch.__file__).resolve().parent
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {
        line.split(maxsplit=5)[5] for line in lines if "gomp" in line or "libomp" in line or "libiomp" in line
    }
    # other packages have copies of the library with separate threads
    ours = [p for p in paths if home in Path(p).parents or f"{home}.libs" in p] or list(paths)
    if len(ours) != 1:
        log.debug("no OpenMP runtime to share with torch among %s", sorted(paths))
        return None
    try:
        entry = ctypes.CDLL(ours[0]).GOMP_parallel
    except (OSError, AttributeError) as error:
        log.debug("torch's OpenMP runtime cannot be shared: %s", error)
        return None
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    entry.restype = None
    return entry


def run_kernel(kernel: int, tasks: Sequence[Sequence[int]]) -> None:
    """Run the kernel at an address over all tasks, at most `workers()` at once."""
    run_table(kernel, make_table(tasks))


def make_table(tasks: Sequence[Sequence[int]]) -> np.ndarray:
    """The table of these tasks; it can be run repeatedly."""
    table = np.empty(HEADER + len(tasks) * len(tasks[0]), np.int64)
    table[:HEADER] = 0, len(tasks), 8 * len(tasks[0]), 0
    table[HEADER:] = np.asarray(tasks, np.int64).reshape(-1)
    return table


def task_arguments(table: np.ndarray) -> np.ndarray:
    """The tasks of a table, one row each, as a writable view."""
    return table[HEADER:].reshape(int(table[1]), -1)


def run_table(kernel: int, table: np.ndarray) -> None:
    """Run the kernel at an address over the tasks of a table."""
    global _pool, _pool_size
    table[0] = 0
    threads = min(workers(), int(table[1]))
    if threads == 1:
        _KERNEL(kernel)(table.ctypes.data)
    elif (parallel := _gomp_parallel()) is not None:
        parallel(kernel, table.ctypes.data, threads, 0)
    else:
        if _pool is None or _pool_size < threads - 1:
            _pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="mambamed-scan")
            _pool_size = threads - 1
        function = _KERNEL(kernel)
        others = [_pool.submit(function, table.ctypes.data) for _ in range(threads - 1)]
        function(table.ctypes.data)
        for other in others:
            other.result()


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """Split `range(count)` into at most `parts` ranges of nearly equal length.

    >>> shares(5, 2)
    [(0, 3), (3, 5)]
    """
    parts = max(1, min(parts, count))
    size, rest = divmod(count, parts)
    bounds = [i * size + min(i, rest) for i in range(parts + 1)]
    return list(itertools.pairwise(bounds))
