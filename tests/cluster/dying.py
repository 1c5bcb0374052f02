"""Work whose workers die; few imports, because each worker starts anew."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mambamed.cases import Case


def wait(case: Case) -> str:
    time.sleep(0.5)
    return case.id


def die(case: Case, folder: Path) -> str:
    """The worker of c1 dies each time, that of c2 the first two times."""
    (folder / f"{case.id}-{time.time_ns()}").touch()
    starts = len(list(folder.glob(f"{case.id}-*")))
    if case.id == "c1" or (case.id == "c2" and starts < 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return case.id
