"""The same work for every case, in processes that may die without taking the others along."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.memory import case_too_large, free_memory_bytes
from mambamed.progress import Progress
from mambamed.terminal import guard_streams

Answer = TypeVar("Answer")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_cases(
    work: Callable[..., Answer], arguments: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> Iterator[tuple[Case, Answer | CaseError]]:
    """Do the work for every case, in processes of one thread each.

    Where a process dies (killed for its memory, a crash), all that were at work are lost with it: each of
    their cases is tried once more, alone; then the others go on.

    Args:
        work: called with each tuple; a function of a module, as processes need it.
        arguments: a tuple a case; its first element is the case.
        workers: processes; with 1, all is done in this one.
        progress: is advanced with each case done.

    Yields:
        The case and the answer, or the CaseError that it met, in the order in which they are done.
    """
    waiting = deque(arguments)
    alone = workers == 1 or len(arguments) == 1
    while waiting:
        died: list[tuple[Any, ...]] = []
        for each, answer in (
            _here(work, waiting) if alone else _in_processes(work, waiting, workers, progress)
        ):
            if isinstance(answer, BrokenProcessPool):
                died.append(each)
                continue
            yield each[0], answer
            progress.advance(1, case=each[0].id)
        for each in died:
            (answer,) = (answer for _, answer in _in_processes(work, deque([each]), 1, progress))
            if isinstance(answer, BrokenProcessPool):
                free = free_memory_bytes()
                lack = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
                answer = CaseError(
                    f"{each[0].id}: its process was killed twice, possibly for lack of memory{lack}. "
                    "Use --workers 1 or leave the case out."
                )
            else:
                progress.say(f"{each[0].id}: its process was killed; the second attempt succeeded")
            yield each[0], answer
            progress.advance(1, case=each[0].id)


def _here(
    work: Callable[..., Answer], waiting: deque[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Answer | CaseError]]:
    while waiting:
        each = waiting.popleft()
        yield each, _attempt(work, each)


def _attempt(work: Callable[..., Answer], arguments: tuple[Any, ...]) -> Answer | CaseError:
    try:
        with case_too_large(f"{arguments[0].id}: "):
            return work(*arguments)
    except CaseError as error:
        return error


def _in_processes(
    work: Callable[..., Answer], waiting: deque[tuple[Any, ...]], workers: int, progress: Progress
) -> Iterator[tuple[tuple[Any, ...], Answer | CaseError | BrokenProcessPool]]:
    """Spawned processes; few cases wait in their queue, so that memory stays bounded.

    Where the system has no shared memory for them, this process does the work.

    Ends early once a process has died, with the error for every case that was at work or in the queue.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Answer | CaseError], tuple[Any, ...]] = {}
    broken = False
    number = min(workers, len(waiting))
    try:
        pool = ProcessPoolExecutor(number, context, _begin_worker)
    except (OSError, ImportError, NotImplementedError) as error:
        # of concurrent.futures and multiprocessing, where the system has no semaphores or too few
        reason = f"no worker process can be started (/dev/shm: {error})"
        progress.say(f"{reason}: the cases are done one at a time, as with --workers 1")
        yield from _here(work, waiting)
        return
    with _one_thread_each(), pool:
        while True:
            while waiting and not broken and len(running) < 2 * workers:
                try:
                    running[pool.submit(_attempt, work, waiting[0])] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:  # noqa: PERF203 - it may break at any of them
                    broken = True
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                each = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken = True
                    yield each, error
                else:
                    yield each, future.result()


def _begin_worker() -> None:
    """In a worker: guard what it prints, and end as soon as the process that started it is gone.

    A worker would wait for its next case for ever, since it holds both ends of the queue itself.
    """
    guard_streams()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _one_thread_each:  # noqa: N801 - used as a word in a with statement
    """Processes started within inherit an environment that keeps numerical libraries to one thread."""

    _NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

    def __enter__(self) -> None:
        self._former = {name: os.environ.get(name) for name in self._NAMES}
        os.environ.update(dict.fromkeys(self._NAMES, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
