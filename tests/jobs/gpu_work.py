"""Work of the processes in the tests of `--gpus`: few imports, because each process starts anew."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mambamed.cases import Case


def gpu_of_two(case: Case, folder: Path) -> tuple[int, str | None]:
    """The process and what it sees; waits for the other process, so that each has one of the two cases."""
    (folder / case.id).touch()
    limit = time.monotonic() + 100
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < limit, "the other process does not start"
        time.sleep(0.02)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def threads(case: Case) -> str | None:
    """The number of threads of numerical libraries."""
    return os.environ.get("MKL_NUM_THREADS")


def die(case: Case, folder: Path) -> str | None:
    """The process of c1 dies each time."""
    (folder / f"{case.id}-{time.time_ns()}").touch()
    if case.id == "c1":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ.get("CUDA_VISIBLE_DEVICES")
