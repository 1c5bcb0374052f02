"""`--gpus N`: runs the same command once per GPU under torchrun, and what torchrun says to each process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mambamed.cluster.position import SLURM_STEP
from mambamed.errors import RecipeError
from mambamed.numerals import is_whole
from mambamed.training.stopping import STOP_SIGNALS

_REMEDY = "Start the processes with torchrun, or unset WORLD_SIZE."


@dataclass(frozen=True)
class Started:
    """The position of this process among those that torchrun has started.

    Attributes:
        rank: from 0.
        world: number of processes.
        local_rank: the same on this machine; None if it is not known.
        beside: number of those on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int | None = None
    beside: int = 1


def started(environment: Mapping[str, str] | None = None) -> Started:
    """What torchrun's variables say; a `WORLD_SIZE` of 1, which some clusters set, is no start.

    >>> started({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    Started(rank=3, world=4, local_rank=1, beside=2)

    Raises:
        RecipeError: a variable is missing, is no number, or contradicts another one; or srun started several
            processes without torchrun, which would all train the same run.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, int] = {}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        if (text := environment.get(name, "")) and not is_whole(text):
            raise RecipeError(f"{name}={text}: expected a number. {_REMEDY}")
        if text:
            found[name] = int(text)
        if found.get("WORLD_SIZE", 1) == 1:
            _check_step(environment)
            return Started()
    if "RANK" not in found:
        raise RecipeError(f"WORLD_SIZE={found['WORLD_SIZE']}: RANK is not set. {_REMEDY}")
    for name, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        most = found.get(size, found["WORLD_SIZE"])
        if found.get(name, -1) >= most:
            raise RecipeError(f"{name}={found[name]}: expected less than {most}. {_REMEDY}")
    beside = found.get("LOCAL_WORLD_SIZE", found["WORLD_SIZE"])
    if not 1 <= beside <= found["WORLD_SIZE"]:
        raise RecipeError(
            f"LOCAL_WORLD_SIZE={beside}: expected 1 to WORLD_SIZE={found['WORLD_SIZE']}. {_REMEDY}"
        )
    return Started(found["RANK"], found["WORLD_SIZE"], found.get("LOCAL_RANK"), beside)


def _check_step(environment: Mapping[str, str]) -> None:
    """Raise RecipeError if this process is one of several tasks of a SLURM step."""
    rank, count = (environment.get(name, "") for name in SLURM_STEP)
    if is_whole(rank) and is_whole(count) and int(count) > 1:
        raise RecipeError(
            f"SLURM_STEP_NUM_TASKS={count}: srun has started this command {count} times, without torchrun. "
            "To train one network on several GPUs, start one task per machine, with --gpus N or torchrun. If "
            "every task has a run of its own, unset SLURM_PROCID."
        )


def launched(gpus: int) -> bool:
    """Whether this process still has to start the processes that train.

    Raises:
        RecipeError: another number of processes was started.
    """
    there = started()
    if gpus > 1 and there.world > 1 and gpus not in (there.world, there.beside):
        raise RecipeError(
            f"--gpus {gpus}: this is one of {there.world} processes that were started together (WORLD_SIZE). "
            "Remove --gpus to train with them, or unset WORLD_SIZE."
        )
    return gpus > 1 and there.world == 1


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
