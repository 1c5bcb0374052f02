"""A pool of threads for the `cpu` backend.

Kernels release the GIL, so Python threads do; another OpenMP runtime beside torch's would not survive a fork. As
many threads as torch uses (`torch.get_num_threads()`): one in a data loader's worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    """Threads do not follow into a forked child."""
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def workers() -> int:
    """How many tasks may run at once."""
    return max(1, torch.get_num_threads())


def run_all(tasks: Sequence[Callable[[], object]]) -> None:
    """Run the tasks, at most `workers()` at once, the last one here; an exception in any is raised here."""
    global _pool, _pool_size
    count = min(workers(), len(tasks))
    if count <= 1:
        for task in tasks:
            task()
        return
    if _pool is None or _pool_size < count - 1:
        _pool, _pool_size = ThreadPoolExecutor(count - 1, thread_name_prefix="mambamed-scan"), count - 1
    futures = [_pool.submit(task) for task in tasks[:-1]]
    try:
        tasks[-1]()
    finally:
        # wait for all even after a failure: they write into memory that the caller owns
        outcomes = [future.exception() for future in futures]
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut `range(count)` into at most `parts` runs of nearly equal length.

    >>> shares(5, 2)
    [(0, 3), (3, 5)]
    """
    parts = max(1, min(parts, count))
    size, rest = divmod(count, parts)
    bounds = [i * size + min(i, rest) for i in range(parts + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))
