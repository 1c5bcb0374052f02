"""`jobs`: what is done, runs, waits or failed in a folder, and the time left, from the records alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.commands import KIND
from mambamed.cluster.runners import ids_of, runs_now
from mambamed.cluster.step import STOP
from mambamed.documents.jobs import JobRequest, JobState
from mambamed.documents.prediction import PredictionRecord, record_files
from mambamed.errors import DatasetError, MambamedError, RunError
from mambamed.io.ledger import Ledger
from mambamed.io.lock import LOCK_NAME, is_locked
from mambamed.io.tables import read_csv

_RECENT = 10  # results from which the time per case or epoch is taken


@dataclass(frozen=True)
class JobLine:
    """A command that runs as a job, or the cases of an output folder.

    Attributes:
        name: of the job, or the folder of the cases.
        state: "done", "running", "waiting", "failed", "stopped" or "lost" (it was killed).
        progress: e.g. "12/40 epochs" or "37/148 cases"; empty if unknown.
        seconds_left: estimated; None if unknown.
        host: where it runs or ran last.
        seconds: that it ran, in all starts.
        fault: why it failed.
    """

    name: str
    state: str
    progress: str
    seconds_left: float | None
    host: str
    seconds: float
    fault: str


@dataclass(frozen=True)
class JobList:
    """The result of `jobs`.

    Attributes:
        lines: one per job and per folder of cases.
        failed: one line per failed job and per failed case.
        cancelled: ids of the jobs that were cancelled.
        log: of the first failed job.
    """

    lines: tuple[JobLine, ...]
    failed: tuple[str, ...]
    cancelled: tuple[str, ...] = ()
    log: Path | None = None


def list_jobs(folder: Path, cancel: bool = False) -> JobList:
    """The jobs of a folder: those that `--on` has started, and the cases of outputs in it.

    Args:
        folder: a folder of jobs; an output folder, whose jobs are in `FOLDER.jobs`; or a folder above them.
        cancel: cancel all jobs, and let no job be started again.

    Raises:
        DatasetError: there are no jobs and no records.
        RunError: the batch system does not cancel a job.
    """
    places = list(_folders_of_jobs(folder))
    cancelled = [job for place in places for job in _cancel(place)] if cancel else []
    lines, failed, log = [], [], None
    for place in places:
        for request in _requests(place):
            line = _line_of_job(place, request)
            lines.append(line)
            if line.state == "failed":
                path = place / f"{line.name}.log"
                failed.append(f"{line.name}: {line.fault or 'failed'} (see {path})")
                log = log or path
    for output in [folder, *sorted(path.parent for path in folder.glob("*/run*.json"))]:
        for record in record_files(output) if output.is_dir() else ():
            with suppress(MambamedError):  # run.json of a run is another document
                line, faults = _line_of_cases(record)
                lines.append(line)
                failed += faults
    if not lines:
        raise DatasetError(f"{folder}: holds no jobs and no records of cases. Give the -o of a command.")
    return JobList(tuple(lines), tuple(failed), tuple(cancelled), log)


def _folders_of_jobs(folder: Path) -> Iterator[Path]:
    candidates = [folder, folder.with_name(f"{folder.name}.jobs")]
    candidates += sorted(path.parent for path in folder.glob("*/.mambamed-files"))
    for place in dict.fromkeys(candidates):
        if Ledger(place).refresh().kind == KIND:
            yield place


def _requests(place: Path) -> list[JobRequest]:
    names = sorted(path.name.removesuffix(".json") for path in place.glob("*.json"))
    names = [name for name in names if not name.endswith((".state", ".job"))]
    return [JobRequest.read(place / f"{name}.json") for name in names]


def _cancel(place: Path) -> Iterator[str]:
    """Let nothing be started again, and end what waits or runs."""
    (place / STOP).touch()
    for request in _requests(place):
        system = SYSTEMS.get(request.on)
        active = system.active() if system else set()
        if system and active is None:
            raise RunError(f"{system.listing[0]}: does not answer. Cancel the jobs by hand, or try again.")
        for job in sorted(ids_of(request, place) & (active or set())):
            if system:
                system.cancel_job(job)
                yield job


def _line_of_job(place: Path, request: JobRequest) -> JobLine:
    starts = JobState.of(place, request.name).starts
    if not starts:
        return JobLine(request.name, "waiting", "", None, "", 0.0, "")
    last = starts[-1]
    seconds = sum((start.ended or start.seen) - start.began for start in starts)
    state = last.ending or ("running" if runs_now(place, request.name) else "lost")
    if state == "interrupted":
        state = "stopped" if (place / STOP).exists() else "waiting"
    progress, left = _progress_of_training(request)
    left = left if state in ("running", "waiting") else None
    return JobLine(request.name, state, progress, left, last.host, round(seconds, 1), last.fault)


def _progress_of_training(request: JobRequest) -> tuple[str, float | None]:
    """Epochs of a training job, and the seconds that are left; nothing for other commands."""
    from mambamed.run.listing import list_runs

    words = dict(zip(request.words, request.words[1:], strict=False))
    output, fold = words.get("--output") or words.get("-o"), words.get("--fold") or words.get("-f") or "0"
    if request.words[0] != "train" or output is None:
        return "", None
    root = Path(request.folder) / output
    line = next((each for each in list_runs(root).runs if str(each.fold) == fold and each.run == root), None)
    if line is None:
        return "", None
    times = []
    log = root / f"fold_{fold}" / "log.csv"
    with suppress(MambamedError, ValueError, KeyError):
        times = [float(row["seconds"]) for row in read_csv(log)[1][-_RECENT:]]
    left = statistics.median(times) * (line.epochs - line.epoch) if times else None
    return f"{line.epoch}/{line.epochs} epochs", left


def _line_of_cases(path: Path) -> tuple[JobLine, list[str]]:
    """The cases of a record, and one line per case that failed."""
    record, folder = PredictionRecord.read(path), path.parent
    states = [case.status for case in record.cases.values()]
    waiting, done = states.count("waiting"), states.count("done")
    failed = [f"{name}: {case.fault}" for name, case in record.cases.items() if case.status == "failed"]
    part = path.stem.removeprefix("run").strip("_").replace("_", "-")
    running = is_locked(folder, f"{LOCK_NAME}-{part}" if part else LOCK_NAME)
    state = "running" if running else "stopped" if waiting else "failed" if failed else "done"
    name = f"{folder.name} part {part.replace('-of-', ' of ')}" if part else folder.name
    seconds = sum(case.seconds or 0.0 for case in record.cases.values())
    left = _seconds_per_case(folder, record) if waiting else None
    return JobLine(
        name,
        state,
        f"{done}/{len(states)} cases",
        None if left is None else left * waiting,
        "",
        round(seconds, 1),
        f"{len(failed)} cases failed" if failed else "",
    ), failed


def _seconds_per_case(folder: Path, record: PredictionRecord) -> float | None:
    """The median time between the last results, however many workers write them."""
    names = [name for name, case in record.cases.items() if case.status == "done"]
    files = [path for path in folder.glob("*") if path.name.partition(".")[0] in names and path.is_file()]
    times = sorted(path.stat().st_mtime for path in files)[-_RECENT:]
    gaps = [after - before for before, after in pairwise(times)]
    return statistics.median(gaps) if gaps and time.time() - times[-1] < 3600 else None
