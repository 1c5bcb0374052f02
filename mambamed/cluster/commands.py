"""Many commands of mambamed: submitted, followed from their records, started again, reported by name.

Nothing is held in memory alone: when the process that submits is killed, its jobs go on, and the same call
follows them again. The processes of `on="local"` end with it, and go on with the same call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambamed.cluster.destination import Destination
from mambamed.cluster.runners import BatchRunner, LocalRunner, Runner
from mambamed.cluster.site import with_site
from mambamed.cluster.step import STOP, may_start_again
from mambamed.documents.foreign.jobqueue import SiteQueue
from mambamed.documents.jobs import JobRequest, JobState, Start
from mambamed.errors import RecipeError
from mambamed.io.ownership import Output
from mambamed.progress import Progress, Silence

KIND = "folder of jobs"
_ENDS = (".json", ".state.json", ".log", ".batch.log", ".sh", ".sub", ".job.json")


@dataclass(frozen=True)
class Command:
    """A command of mambamed to be run somewhere.

    Attributes:
        name: unique among the commands; letters, digits, ".", "_" and "-".
        words: its arguments, e.g. ("train", "-d", "prepared/x").
        again: further arguments from the second start on, e.g. ("--resume",).
        folder: working folder (default: the present one).
        proof: files that exist once it is done: it is then skipped if its record says so, too.
    """

    name: str
    words: Sequence[str]
    again: Sequence[str] = ()
    folder: Path | None = None
    proof: Sequence[Path] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        state: "done", "failed", or "stopped" (cancelled, or by a file STOP).
        fault: why it failed, or that some of its cases did; one line, or empty.
        log: what it printed.
        seconds: of all its starts.
        starts: number of them.
    """

    name: str
    state: str
    fault: str
    log: Path
    exit_code: int | None
    seconds: float
    starts: int


def run_commands(
    commands: Sequence[Command],
    place: Destination,
    folder: Path,
    progress: Progress | None = None,
    poll_seconds: float | None = None,
) -> list[Outcome]:
    """Run every command to its end, `place.jobs` at a time, and return what became of each, in their order.

    A job that is stopped early (time limit, preemption, a lost machine) is started again; one that fails by
    itself is not. On a batch system all are submitted at once unless `place.jobs` is given; locally, one is
    run at a time.

    Args:
        commands: with names of their own.
        place: this machine or a batch system.
        folder: for requests, records, scripts and logs; on a file system that all machines share. A file
            named STOP in it ends the starting of jobs.
        progress: is advanced with each command that has ended.
        poll_seconds: between two looks at the jobs (default: 0.3 locally, else 15).

    Raises:
        RecipeError: two commands have one name, or a resource that the batch system does not have.
        RunError: the batch system does not accept a job, or another process runs the commands of this folder.
        KeyboardInterrupt: jobs of a batch system go on; local ones have stopped.
    """
    progress, folder = progress or Silence(), folder.absolute()
    if len({command.name for command in commands}) < len(commands):
        raise RecipeError(f"{folder}: several commands have the same name. Rename them.")
    if place.is_address:
        raise RecipeError(
            f"--on {place.on}: whole commands run on this machine or a batch system. Give local or its name."
        )
    place, site = with_site(place)
    with Output(folder, KIND, signals=(STOP,)).locked() as ledger:
        (folder / STOP).unlink(missing_ok=True)
        ledger.add([f"{command.name}{end}" for command in commands for end in _ENDS])
        jobs = [_Job(command, place, folder) for command in commands]
        width = place.jobs or (1 if place.on == "local" else len(jobs))
        progress.start(f"running ({place.on})", len(jobs), "commands")
        with _runner(place, folder, site) as runner:
            pause = runner.poll_seconds if poll_seconds is None else poll_seconds
            _follow(jobs, runner, width, progress, pause)
    return [job.outcome() for job in jobs]


class _Job:
    """One command, its files, and what is known of it.

    Attributes:
        ended: whether nothing is left to do.
        submitted: whether it was started, by this call or by an earlier one that is followed.
        missed: looks in a row at which the runner did not find it active.
    """

    def __init__(self, command: Command, place: Destination, folder: Path) -> None:
        self.request = JobRequest(
            name=command.name,
            words=tuple(map(str, command.words)),
            again=tuple(command.again),
            folder=str((command.folder or Path()).absolute()),
            on=place.on,
            resources=dict(place.resources),
            limit_seconds=place.limit_seconds,
        )
        self.folder, self._path = folder, folder / f"{command.name}.json"
        self.ended, self.submitted, self.missed = False, False, 0
        if self._path.is_file():
            self._follow(JobRequest.read(self._path), command.proof)
        # Of starts by earlier calls, only those of a job that still runs count.
        self._before = 0 if self.submitted else len(self._starts())

    def _follow(self, known: JobRequest, proof: Sequence[Path]) -> None:
        """Take over what an earlier call knows of the job."""
        same = known.folder == self.request.folder and _first(known) == _first(self.request)
        state = JobState.of(self.folder, self.name)
        if same and state.ending == "done" and all(path.exists() for path in proof):
            self.request, self.ended = known, True
        elif known.submissions and state.ending not in ("done", "failed"):
            if not same or known.on != self.request.on:
                raise RecipeError(
                    f"{self._path}: {self.name} was submitted to {known.on}, with other options, and has not "
                    f"ended. Wait for it, or cancel it with 'mambamed jobs {self.folder} --cancel'."
                )
            self.request = self.request.changed(submissions=known.submissions)
            self.submitted = True
        elif not same:
            (self.folder / f"{self.name}.state.json").unlink(missing_ok=True)

    @property
    def name(self) -> str:
        return self.request.name

    def _starts(self) -> tuple[Start, ...]:
        return JobState.of(self.folder, self.name).starts

    def new_starts(self) -> tuple[Start, ...]:
        """The starts that this call counts."""
        return self._starts()[self._before :]

    def submit(self, runner: Runner) -> None:
        """Start it, or start it again."""
        self.request.write(self._path)  # the job reads it
        if identifier := runner.start(self.request):
            self.request = self.request.changed(submissions=(*self.request.submissions, identifier))
            self.request.write(self._path)
        self.submitted, self.missed = True, 0

    def end(self, progress: Progress) -> None:
        """Nothing is left to do."""
        self.ended, outcome = True, self.outcome()
        if outcome.state != "done" or outcome.fault:
            progress.say(f"{self.name}: {outcome.state}: {outcome.fault or 'stopped'} (see {outcome.log})")
        progress.advance(1, command=self.name)

    def outcome(self) -> Outcome:
        """What became of it."""
        starts = self._starts()
        last = starts[-1] if starts else None
        fault, code = (last.fault, last.exit_code) if last else ("", None)
        state = last.ending if last and last.ending in ("done", "failed") else "stopped"
        if state == "stopped" and starts and not may_start_again(self.new_starts()):
            state, fault = (
                "failed",
                fault or f"killed {len(starts)} times, possibly for lack of memory or time",
            )
        seconds = sum((start.ended or start.seen) - start.began for start in starts)
        log = self.folder / f"{self.name}.log"
        return Outcome(self.name, state, fault, log, code, round(seconds, 1), len(starts))


def _first(request: JobRequest) -> list[str]:
    """The arguments without those of a second start, which may be given from the beginning."""
    return [word for word in request.words if word not in request.again]


def _runner(place: Destination, folder: Path, site: SiteQueue) -> Runner:
    if place.is_batch:
        return BatchRunner(place, folder, site)
    return LocalRunner(place, folder)


def _follow(jobs: Sequence[_Job], runner: Runner, width: int, progress: Progress, pause: float) -> None:
    """Start jobs and wait until all have ended."""
    for job in jobs:
        if job.ended:
            progress.advance(1, command=job.name)
    while waiting := [job for job in jobs if not job.ended]:
        active = runner.active([job.request for job in waiting if job.submitted])
        busy = len(active)
        for job in waiting:
            starts = job.new_starts()
            job.missed = 0 if job.name in active else job.missed + 1
            if starts and starts[-1].ending in ("done", "failed"):
                job.end(progress)
            elif job.name in active:
                continue
            elif job.submitted and job.missed < runner.missed:
                busy += 1
            elif (job.folder / STOP).exists() or (starts and not may_start_again(starts)):
                job.end(progress)
            elif busy < width:
                if starts:
                    progress.say(f"{job.name}: {starts[-1].fault or 'stopped early'}; started again")
                job.submit(runner)
                busy += 1
        if not all(job.ended for job in jobs):
            time.sleep(pause)
