"""What runs the jobs: processes of this machine, a batch system, or the workers of a Dask scheduler."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mambamed.cluster.batch import SYSTEMS
from mambamed.cluster.destination import Destination
from mambamed.cluster.scripts import write_script
from mambamed.cluster.step import BEAT_SECONDS
from mambamed.cores import cores
from mambamed.documents.foreign.jobqueue import SiteQueue
from mambamed.documents.jobs import JobRequest, JobState


class Runner(AbstractContextManager, Protocol):
    """What starts jobs; leaving it ends what cannot go on without it.

    Attributes:
        poll_seconds: between two looks at the jobs.
        missed: looks in a row at which a job is not active before it counts as ended: a shared file system
            may show its record later than that.
    """

    poll_seconds: float
    missed: int

    def start(self, request: JobRequest) -> str:
        """Start a job; its id, or empty."""
        ...

    def active(self, requests: Collection[JobRequest]) -> set[str]:
        """Names of the jobs that wait or run."""
        ...


class LocalRunner:
    """Processes of this machine, which end with this one."""

    poll_seconds, missed = 0.3, 1

    def __init__(self, place: Destination, folder: Path) -> None:
        self._folder, self._width = folder, place.jobs or 1
        self._gpus = visible_gpus() if self._width > 1 else []
        self._each = place.count("gpus") or 1
        self._running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def __enter__(self) -> LocalRunner:
        return self

    def start(self, request: JobRequest) -> str:
        slot = min(set(range(self._width)) - {slot for _, slot in self._running.values()}, default=0)
        environment = dict(os.environ)
        if self._gpus:
            own = [self._gpus[(slot * self._each + k) % len(self._gpus)] for k in range(self._each)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
        if self._width > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self._width)))
        words = ["-m", "mambamed.cluster.step", str(self._folder), request.name, str(os.getpid())]
        # of a session of its own: Ctrl-C reaches it once, from here
        process = subprocess.Popen([sys.executable, *words], env=environment, start_new_session=True)
        self._running[request.name] = process, slot
        return ""

    def active(self, requests: Collection[JobRequest]) -> set[str]:
        self._running = {name: each for name, each in self._running.items() if each[0].poll() is None}
        return set(self._running)

    def __exit__(self, *_: object) -> None:
        for process, _slot in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process, _slot in self._running.values():
            process.wait()


class BatchRunner:
    """Jobs of a batch system, which outlive this process."""

    poll_seconds, missed = 15.0, 4

    def __init__(self, place: Destination, folder: Path, site: SiteQueue) -> None:
        self._place, self._folder, self._site = place, folder, site
        self._system = SYSTEMS[place.on]

    def __enter__(self) -> BatchRunner:
        return self

    def start(self, request: JobRequest) -> str:
        return self._system.submit_script(write_script(self._folder, request, self._place, self._site))

    def active(self, requests: Collection[JobRequest]) -> set[str]:
        """All of them while the batch system does not answer."""
        listed = self._system.active()
        if listed is None:
            return {request.name for request in requests}
        return {request.name for request in requests if ids_of(request, self._folder) & listed}

    def __exit__(self, *_: object) -> None:
        pass


def ids_of(request: JobRequest, folder: Path) -> set[str]:
    """The ids that a job may have in the batch system: of its last submission, and where it last ran."""
    starts = JobState.of(folder, request.name).starts
    return {*request.submissions[-1:], *(start.id for start in starts[-1:] if start.id)}


def runs_now(folder: Path, name: str) -> bool:
    """Whether a job has reported lately that it runs."""
    starts = JobState.of(folder, name).starts
    return bool(starts) and starts[-1].ending is None and time.time() < starts[-1].seen + 4 * BEAT_SECONDS


def visible_gpus() -> list[str]:
    """Names of the CUDA devices that this process sees, for CUDA_VISIBLE_DEVICES."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [part for part in re.split(r"[,\s]+", named) if part and part != "-1"]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
