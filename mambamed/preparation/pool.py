"""The same work for every case, in processes or workers that may die without taking the others along."""

from __future__ import annotations

import multiprocessing
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol, TypeVar

from mambamed.cases import Case
from mambamed.cores import THREADS
from mambamed.errors import CaseError
from mambamed.memory import case_too_large, free_memory_bytes
from mambamed.progress import Progress
from mambamed.terminal import guard_streams

Answer = TypeVar("Answer")


class Pool(Protocol):
    """Where the work is done, other than in this process.

    Attributes:
        queue: cases per worker that are handed to the executor, with the one at work.
        breaks: whether the executor cannot be used any more once a worker has died.
        worker: what dies, for messages.
    """

    queue: int
    breaks: bool
    worker: str

    def open(self, number: int) -> AbstractContextManager[Executor]:
        """An executor with so many workers; its futures raise BrokenExecutor where a worker died."""
        ...

    def remedy(self) -> str:
        """A line about a case whose worker died each time."""
        ...


@dataclass(frozen=True)
class Workers:
    """A pool, and how many workers it has.

    Attributes:
        command: unique, so that workers that outlive a command do not use what they kept of it.
    """

    pool: Pool
    number: int
    command: str = field(default_factory=lambda: uuid.uuid4().hex)


class ProcessPool:
    """Spawned processes of one thread each."""

    queue, breaks, worker = 2, True, "process"

    @contextmanager
    def open(self, number: int) -> Iterator[Executor]:
        context = multiprocessing.get_context("spawn")
        with _one_thread_each(), ProcessPoolExecutor(number, context, begin_worker) as executor:
            yield executor

    def remedy(self) -> str:
        free = free_memory_bytes()
        lack = "" if free is None else f" ({free / 2**30:.1f} GiB are free)"
        return f"possibly for lack of memory{lack}. Use --workers 1 or leave the case out."


def over_cases(
    work: Callable[..., Answer],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Progress,
    pool: Pool | None = None,
) -> Iterator[tuple[Case, Answer | CaseError]]:
    """Do the work for every case, in processes of one thread each, or in the workers of a pool.

    Where a process dies (killed for its memory, a crash), all that were at work are lost with it: each of
    their cases is tried once more, alone; then the others go on. A cluster tries the case of a dead worker
    in another one first.

    Args:
        work: called with each tuple; a function of a module, as processes need it.
        arguments: a tuple a case; its first element is the case.
        workers: processes; with 1 and no pool, all is done in this one.
        progress: is advanced with each case done.
        pool: where else (default: processes of this machine).

    Yields:
        The case and the answer, or the CaseError that it met, in the order in which they are done.
    """
    waiting = deque(arguments)
    alone = pool is None and (workers == 1 or len(arguments) == 1)
    pool = pool or ProcessPool()
    while waiting:
        died: list[tuple[Any, ...]] = []
        for each, answer in (
            _here(work, waiting) if alone else _in_pool(work, waiting, workers, progress, pool)
        ):
            if isinstance(answer, BrokenExecutor):
                died.append(each)
                continue
            yield each[0], answer
            progress.advance(1, case=each[0].id)
        for each in died:
            (answer,) = (answer for _, answer in _in_pool(work, deque([each]), 1, progress, pool))
            if isinstance(answer, BrokenExecutor):
                answer = CaseError(f"{each[0].id}: its {pool.worker} was killed each time, {pool.remedy()}")
            elif not isinstance(answer, CaseError):
                progress.say(f"{each[0].id}: its {pool.worker} was killed; a further attempt succeeded")
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


def _in_pool(
    work: Callable[..., Answer], waiting: deque[tuple[Any, ...]], workers: int, progress: Progress, pool: Pool
) -> Iterator[tuple[tuple[Any, ...], Answer | CaseError | BrokenExecutor]]:
    """Few cases wait in the queue of the processes, so that memory stays bounded.

    Where the system has no shared memory for processes, this process does the work.

    Ends early once a process has died, with the error for every case that was at work or in the queue.
    """
    running: dict[Future[Answer | CaseError], tuple[Any, ...]] = {}
    broken = False
    with ExitStack() as opened:
        try:
            executor = opened.enter_context(pool.open(min(workers, len(waiting))))
        except (OSError, ImportError, NotImplementedError) as error:
            # of concurrent.futures and multiprocessing, where the system has no semaphores or too few
            if not isinstance(pool, ProcessPool):
                raise
            reason = f"no worker process can be started (/dev/shm: {error})"
            progress.say(f"{reason}: the cases are done one at a time, as with --workers 1")
            yield from _here(work, waiting)
            return
        while True:
            while waiting and not broken and len(running) < pool.queue * workers:
                try:
                    running[executor.submit(_attempt, work, waiting[0])] = waiting[0]
                    waiting.popleft()
                except BrokenExecutor:  # noqa: PERF203 - it may break at any of them
                    broken = True
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                each = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    broken = broken or pool.breaks
                    yield each, error
                else:
                    yield each, future.result()


def begin_worker() -> None:
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

    def __enter__(self) -> None:
        self._former = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
