"""A batch system of one machine: sbatch, squeue, scancel and scontrol as far as jobs see them.

A job is the script in a process group of its own, with SLURM's variables. It stays in the queue until its
script has ended without `scontrol requeue`; what is requeued keeps its id. Written from the manual pages.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

SBATCH = r"""#!/bin/bash
cd {folder}
exec 9>lock; flock 9
id=$(( $(cat last 2>/dev/null || echo 100) + 1 )); echo $id > last
script="${{@: -1}}"
printf '%s\n' "$*" >> submitted
[ -e refuse ] && {{ echo "sbatch: error: Invalid partition name" >&2; exit 1; }}
touch $id.queued
(
  exec 9>&-
  while true; do
    rm -f $id.again
    SLURM_JOB_ID=$id SLURM_NTASKS=4 SLURM_PROCID=0 setsid bash "$script" >> $id.out 2>&1 &
    echo $! > $id.pid
    wait $!
    [ -e $id.again ] || break
  done
  rm -f $id.queued
) > /dev/null 2>&1 < /dev/null &
echo "$id;cluster"
"""
SQUEUE = r"""#!/bin/bash
cd {folder}
[ -e silent ] && exit 1
for job in *.queued; do [ -e "$job" ] && echo "${{job%.queued}}"; done
true
"""
SCANCEL = r"""#!/bin/bash
cd {folder}
echo "$1" >> cancelled
kill -TERM $(cat $1.pid)
"""
SCONTROL = r"""#!/bin/bash
cd {folder}
echo "$*" >> controlled
[ -e no_requeue ] && exit 1
touch $2.again
"""
TEXTS = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "scontrol": SCONTROL}


class FakeSlurm:
    """The commands in `folder`/bin, and the state in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for name, text in TEXTS.items():
            (self.bin / name).write_text(text.format(folder=folder))
            (self.bin / name).chmod(0o755)

    def pid(self, job: str) -> int:
        """The process of a job that runs."""
        return int((self.folder / f"{job}.pid").read_text())

    def kill(self, job: str) -> None:
        """The machine of a job is lost."""
        os.killpg(self.pid(job), signal.SIGKILL)

    def lines(self, name: str) -> list[str]:
        """What a command was called with."""
        path = self.folder / name
        return path.read_text().splitlines() if path.is_file() else []


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it does not become true"
        time.sleep(0.05)
