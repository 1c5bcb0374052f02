"""What a job runs: one command of mambamed, told in time to save, and the record of its starts.

`python -m mambamed.cluster.step FOLDER NAME` reads FOLDER/NAME.json, writes FOLDER/NAME.state.json, and lets
the command write to FOLDER/NAME.log. A signal, or the time limit coming near, is passed on to the command as
SIGTERM; a command that then stops early is put back into the queue.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mambamed.cluster.batch import AGAIN, LEAD_SECONDS, SYSTEMS
from mambamed.cluster.position import without_position
from mambamed.documents.jobs import Ending, JobRequest, JobState, Start
from mambamed.errors import RunError
from mambamed.io.atomic import open_log
from mambamed.io.lock import folder_lock, is_locked

STOP = "STOP"  # a file of this name in the folder: no job is started again
MOST_FAILED_STARTS = 3  # in a row, of a job that is killed or ends within a minute
BEAT_SECONDS = 30.0  # between two reports that a job runs
_SHORT_SECONDS = 60.0
_POLL_SECONDS = 0.5
_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
]
_OF_A_SIGNAL = (130, 143, -signal.SIGTERM, -signal.SIGINT)
_SOME_CASES_FAILED = 3


def run_step(folder: Path, name: str, parent: int | None = None) -> int:
    """Run a job once.

    Args:
        folder: of the jobs.
        name: of the job.
        parent: process whose end ends the job.

    Returns:
        0, the exit code of a command that failed, or `AGAIN`.
    """
    request, lock = JobRequest.read(folder / f"{name}.json"), f".lock-{name}"
    try:
        with folder_lock(folder, lock, leftovers=False):
            return _start(folder, request, parent)
    except RunError:
        if not is_locked(folder, lock):
            raise
        return 0  # another start of this job is at work


def _start(folder: Path, request: JobRequest, parent: int | None) -> int:
    path, system = folder / f"{request.name}.state.json", SYSTEMS.get(request.on)
    state = JobState.of(folder, request.name)
    job = os.environ.get(system.variable, "") if system else ""
    now = time.time()
    start = Start(host=socket.gethostname(), process=os.getpid(), id=job, began=now, seen=now)
    words = [*request.words, *(w for w in request.again if state.starts and w not in request.words)]
    JobState(starts=(*state.starts, start)).write(path)
    with open_log(folder / f"{request.name}.log") as log:
        command = subprocess.Popen(
            [sys.executable, "-m", "mambamed", *words],
            cwd=request.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=without_position(os.environ),
        )

    def report(start: Start) -> None:
        JobState(starts=(*state.starts, start)).write(path)

    code, told, start = _followed(command, start, request.limit_seconds, parent, report)
    ending, fault = _ended(code, told, folder / f"{request.name}.log")
    final = start.changed(seen=time.time(), ended=time.time(), ending=ending, exit_code=code, fault=fault)
    starts = (*state.starts, final)
    if ending == "interrupted" and not may_start_again(starts):
        fault = f"stopped early {MOST_FAILED_STARTS} times in a row. {fault}".strip()
        starts = (*state.starts, final := final.changed(ending="failed", fault=fault))
    JobState(starts=starts).write(path)
    if final.ending != "interrupted":
        return 0 if final.ending == "done" else max(code, 1)
    if system and system.restart and not (folder / STOP).exists():
        given = {"ID": job, "SCRIPT": str(folder / f"{request.name}.sh")}
        with suppress(OSError):
            if not subprocess.run([given.get(word, word) for word in system.restart]).returncode:
                return 0
    return AGAIN if not (folder / STOP).exists() else 0


def _followed(
    command: subprocess.Popen[bytes],
    start: Start,
    limit: float | None,
    parent: int | None,
    report: Callable[[Start], None],
) -> tuple[int, bool, Start]:
    """Wait for the command; its exit code, whether it was told to stop, and what was last reported."""
    asked: list[int] = []
    listens = threading.current_thread() is threading.main_thread()  # a thread of Dask cannot
    former = {
        number: signal.signal(number, lambda number, frame: asked.append(number))
        for number in (_SIGNALS if listens else ())
    }
    latest = None if limit is None else start.began + limit - min(LEAD_SECONDS, limit / 4)
    told = False
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return command.wait(_POLL_SECONDS), told, start
            orphaned = parent is not None and os.getppid() != parent
            if not told and (asked or orphaned or (latest is not None and time.time() >= latest)):
                command.send_signal(signal.SIGTERM)
                told = True
            if time.time() >= start.seen + BEAT_SECONDS:
                start = start.changed(seen=time.time())
                report(start)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ended(code: int, told: bool, log: Path) -> tuple[Ending, str]:
    """How a command ended, from its exit code, and the line that says why."""
    if code in (0, _SOME_CASES_FAILED):
        return "done", _last_line(log) if code else ""
    if code == -signal.SIGKILL:
        return "interrupted", "killed, possibly for lack of memory"
    if told or code in _OF_A_SIGNAL:
        return "interrupted", ""
    return "failed", _last_line(log)


def may_start_again(starts: Sequence[Start]) -> bool:
    """Whether a job that stopped early is worth another start: not if it was killed, or short, repeatedly."""
    failed = 0
    for start in reversed(starts):
        lasted = (start.ended or start.seen) - start.began
        saved = start.ending == "interrupted" and start.exit_code != -signal.SIGKILL
        if start.ending in ("done", "failed") or (saved and lasted >= _SHORT_SECONDS):
            break
        failed += 1
    return failed < MOST_FAILED_STARTS


def _last_line(log: Path) -> str:
    """The last line of a log that is not empty, without the program's name."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    found = next((line for line in reversed(lines) if line), "")
    return found.removeprefix("mambamed: ")[:500]


def main(arguments: Sequence[str]) -> int:
    """`FOLDER NAME [PARENT]`."""
    folder, name, *parent = arguments
    return run_step(Path(folder), name, int(parent[0]) if parent else None)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
