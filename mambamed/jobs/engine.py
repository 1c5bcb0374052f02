"""Cases through reading, network and writing: one is read ahead and one is written behind the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mambamed.cases import Case
from mambamed.errors import CaseError
from mambamed.jobs.answer import Answer
from mambamed.jobs.read_case import Ready, read_case
from mambamed.jobs.record import Record
from mambamed.jobs.stream import Abandoned, Stream, abandoned_on_error
from mambamed.memory import case_too_large
from mambamed.progress import Progress
from mambamed.volumes.ensemble import Ensemble

_PARTS_WAITING = 2


def run_cases(
    answer: Answer,
    ensemble: Ensemble,
    cases: Sequence[Case],
    record: Record,
    progress: Progress,
    executor: Executor | None = None,
) -> None:
    """Compute and write the results of every case, and record each as it finishes.

    Three threads: a reader, this one for the networks, and a finisher that writes. One case waits between
    them on either side, and few parts of a result.

    Args:
        answer: of the task.
        ensemble: the networks.
        cases: to be done.
        record: of the output folder.
        progress: receives progress updates.
        executor: reads and writes the cases, e.g. in other processes. Parts of a result are then collected
            before they are handed over. Default: one thread each, which take parts as they come.

    Raises:
        RunError: the output cannot be written; what is recorded until then remains valid.
    """
    streams: list[Stream[Any]] = []
    with (
        ThreadPoolExecutor(1, "reader") as thread,
        ThreadPoolExecutor(1, "finisher") as finisher,
        abandoned_on_error(streams),
    ):
        read = partial((executor or thread).submit, read_case)
        asked = ensemble.run.plan, answer.keeps_images
        ahead: Future[Ready] | None = None
        behind: Future[None] | None = None
        for number, case in enumerate(cases):
            reading = ahead or read(case, *asked)
            try:
                ready = reading.result()
            except CaseError as error:
                ready = None
                record.failed(case, error)
                progress.advance(1, case=case.id)
            following = cases[number + 1 : number + 2]
            ahead = read(following[0], *asked) if following else None
            if ready is None:
                continue
            stream: Stream[Any] = Stream(_PARTS_WAITING)
            streams[:] = [stream]
            with stream.filled(), case_too_large():
                finishing = finisher.submit(_finish, answer, ready, stream, record, progress, executor)
                for part in answer.work(ready, ensemble, progress):
                    stream.put(part)
            if behind is not None:
                behind.result()
            behind = finishing
            del ready
        if behind is not None:
            behind.result()


def _finish(
    answer: Answer,
    ready: Ready,
    parts: Stream[Any],
    record: Record,
    progress: Progress,
    executor: Executor | None,
) -> None:
    began = time.monotonic()
    try:
        with case_too_large():
            results = _written(answer, ready, parts, record.place.path, executor)
        record.done(ready.case, ready.seconds + time.monotonic() - began, ready.warnings, results)
    except CaseError as error:
        record.failed(ready.case, error)
    except Abandoned:
        return
    finally:
        parts.drain()
    progress.advance(1, case=ready.case.id)


def _written(
    answer: Answer, ready: Ready, parts: Stream[Any], folder: Path, executor: Executor | None
) -> dict[str, Any]:
    if executor is None:
        return answer.write(ready, parts, folder)
    return executor.submit(answer.write, ready, tuple(parts), folder).result()
