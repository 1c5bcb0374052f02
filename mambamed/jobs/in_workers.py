"""Cases in the workers of a pool: each worker loads the networks once, and reads, computes and writes cases.

Only descriptions of cases and small results pass between this process and the workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mambamed.cases import Case
from mambamed.errors import CaseError, RunError
from mambamed.io.json_text import json_line
from mambamed.io.lock import reading
from mambamed.jobs.answer import Answer
from mambamed.jobs.read_case import read_case
from mambamed.jobs.record import Record
from mambamed.memory import case_too_large
from mambamed.preparation.pool import Workers, over_cases
from mambamed.progress import Progress, Silence
from mambamed.run.device import keep_freed_memory
from mambamed.ssm.scan import asked_backend, asking_for
from mambamed.volumes.ensemble import Ensemble, Serving, load_ensemble


@dataclass(frozen=True)
class _Task:
    """What a worker has to know in addition to the case."""

    models: tuple[Path, ...]
    serving: Serving
    command: str
    expected: str  # the ensemble, as the first worker described it
    answer: Answer
    folder: Path
    scan: str  # backend that --scan names


@dataclass(frozen=True)
class _Done:
    """What a worker says of a case that it has written."""

    seconds: float
    warnings: tuple[str, ...]
    results: dict[str, Any]
    lines: tuple[str, ...]


def ensemble_in_workers(
    models: Sequence[Path], serving: Serving, workers: Workers, attempts: int = 2
) -> Ensemble:
    """The ensemble as a worker loads it, without its networks: device and precision are those of the worker.

    Raises:
        RunError: the worker died in each attempt.
    """
    with workers.pool.open(1) as executor:
        future = executor.submit(_described, tuple(models), serving, workers.command, asked_backend())
        error = future.exception()
    if not isinstance(error, BrokenExecutor):
        return future.result()
    if attempts == 1:
        fact = f"was killed while it loaded the models, {workers.pool.remedy()}"
        raise RunError(f"the first {workers.pool.worker} {fact}") from error
    return ensemble_in_workers(models, serving, workers, attempts - 1)


def run_in_workers(
    answer: Answer,
    ensemble: Ensemble,
    models: Sequence[Path],
    serving: Serving,
    workers: Workers,
    cases: Sequence[Case],
    record: Record,
    progress: Progress,
) -> None:
    """Compute and write the results of every case, and record each as it finishes; see `run_cases`.

    Args:
        ensemble: from `ensemble_in_workers`.
    """
    if not cases:
        return
    expected = json_line(ensemble.described())
    task = _Task(
        tuple(models), serving, workers.command, expected, answer, record.place.path, asked_backend()
    )
    work = [(case, task) for case in cases]
    for case, done in over_cases(_do_case, work, workers.number, progress, workers.pool):
        if isinstance(done, CaseError):
            record.failed(case, done)
            continue
        for line in done.lines:
            progress.say(line)
        record.done(case, done.seconds, done.warnings, done.results)


class _Lines(Silence):
    """Collects messages, which the process that runs the command shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@lru_cache(maxsize=1)
def _loaded(models: tuple[Path, ...], serving: Serving, command: str) -> Ensemble:
    """The networks, which this worker keeps between the cases of a command."""
    keep_freed_memory()
    with reading(*models):
        return load_ensemble(models, serving)


def _described(models: tuple[Path, ...], serving: Serving, command: str, scan: str) -> Ensemble:
    with asking_for(scan):
        ensemble = _loaded(models, serving, command)
    members = tuple(replace(member, networks=()) for member in ensemble.members)
    return replace(ensemble, members=members)


def _do_case(case: Case, task: _Task) -> _Done:
    """In a worker: one case from its files to its results."""
    with asking_for(task.scan):
        return _done(case, task)


def _done(case: Case, task: _Task) -> _Done:
    ensemble = _loaded(task.models, task.serving, task.command)
    found = ensemble.described()
    if json_line(found) != task.expected:
        raise RunError(
            f"a worker computes with other models or on another device ({found['device']}, "
            f"{found['precision']}) than the first one. Give --device and --precision."
        )
    began, told = time.monotonic(), _Lines()
    ready = read_case(case, ensemble.run.plan, task.answer.keeps_images)
    with case_too_large():
        results = task.answer.write(ready, task.answer.work(ready, ensemble, told), task.folder)
    return _Done(time.monotonic() - began, ready.warnings, results, tuple(told.lines))
