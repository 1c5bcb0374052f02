"""`--gpus N`: runs the same command once per GPU under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from mambamed.errors import RecipeError
from mambamed.training.stopping import STOP_SIGNALS


def launched(gpus: int) -> bool:
    """Whether this process still has to start the processes that train."""
    return gpus > 1 and "WORLD_SIZE" not in os.environ


def launch(gpus: int, arguments: Sequence[str]) -> int:
    """Start `mambamed` with these arguments once per GPU, wait, and return the exit code.

    Raises RecipeError if there are fewer GPUs.
    """
    import torch

    there = torch.cuda.device_count()
    if gpus > there:
        raise RecipeError(f"--gpus {gpus}: torch sees {there} CUDA devices; ask for fewer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    with subprocess.Popen([*command, "-m", "mambamed", *arguments]) as process:

        def forward(number: int, frame: object) -> None:
            if number != signal.SIGINT:  # Ctrl-C reaches the whole group by itself
                process.send_signal(number)

        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, forward)
        return process.wait()
