"""`--gpus N`: runs the same command once per GPU under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mambamed.errors import RecipeError
from mambamed.training.stopping import STOP_SIGNALS


def launched(gpus: int) -> bool:
    """Whether this process still has to start the processes that train.

    A `WORLD_SIZE` of 1, which some clusters set in every process, does not count as a start.
    """
    return gpus > 1 and os.environ.get("WORLD_SIZE", "1") == "1"


def words_of(arguments: Mapping[str, Any]) -> list[str]:
    """The words of `mambamed train` for the arguments of `api.train`, without `gpus` and `progress`.

    >>> words_of({"recipe": "r.yaml", "set": ["a=1", "b=2"], "init_from": None, "dry_run": True, "gpus": 2})
    ['train', 'r.yaml', '--set', 'a=1', '--set', 'b=2', '--dry-run']
    """
    words = ["train", *([str(arguments["recipe"])] if arguments["recipe"] is not None else [])]
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("recipe", "gpus", "on", "jobs", "job", "progress") or value is None or value is False:
            continue
        if value is True:
            words.append(flag)
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [flag, str(each)]
    return words


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

        former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            for number in STOP_SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    former[number] = signal.signal(number, forward)
        try:
            return process.wait()
        finally:
            for number, handler in former.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
