"""The position of a process among those that were started together: by torchrun, by srun, as a job array."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from mambamed.errors import RecipeError
from mambamed.numerals import is_whole

SLURM_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")  # rank and number of tasks of a step of srun
_RANKS = (("RANK", "WORLD_SIZE"), SLURM_STEP)
_PBS = ("first of PBS", "last of PBS", "step of PBS")  # no variables: PBS tells them by qstat
_PATIENCE = 60  # seconds
# index of the task, first index, last index, step between indices
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"),
    ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    ("LSB_JOBINDEX", "", "LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP"),
    ("PBS_ARRAY_INDEX", *_PBS),
)
_WITHOUT_SIZE = ("PBS_ARRAY_INDEX", "PBS_ARRAYID")
_VARIABLES = {
    *(name for pair in _RANKS for name in pair),
    *(name for names in _ARRAYS for name in names if name and name not in _PBS),
    *("SLURM_ARRAY_TASK_COUNT", "SLURM_LOCALID", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *_WITHOUT_SIZE),
}


@dataclass(frozen=True)
class Position:
    """Process `index` of `count`, counted from 1.

    Attributes:
        array: the variable of the job array that says so; empty for a rank.
    """

    index: int
    count: int
    array: str = ""


def position(environment: Mapping[str, str]) -> Position | None:
    """The position that torchrun, srun or a job array set; None for a process alone.

    A batch script of SLURM that starts no step with srun is one process, whatever its `--ntasks` is.

    >>> position({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    >>> position({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"})
    Position(index=4, count=4, array='')

    A step or torchrun within a task of an array divides the part of this task.

    Raises:
        RecipeError: a rank that is too large, or a job array of unknown size or whose indices have gaps.
    """
    rank, task = _rank(environment), _array_task(environment)
    if rank is None or task is None:
        return rank or task
    return Position((task.index - 1) * rank.count + rank.index, task.count * rank.count, task.array)


def _rank(environment: Mapping[str, str]) -> Position | None:
    for rank, size in _RANKS:
        texts = environment.get(rank, ""), environment.get(size, "")
        if not all(map(is_whole, texts)) or int(texts[1]) <= 1:
            continue
        if int(texts[0]) >= int(texts[1]):
            raise RecipeError(
                f"{rank}={texts[0]}: expected less than {size}={texts[1]}. Correct them, or give --shard."
            )
        return Position(int(texts[0]) + 1, int(texts[1]))
    return None


def _array_task(environment: Mapping[str, str]) -> Position | None:
    environment = {**environment, **_pbs_range(environment)}
    for names in _ARRAYS:
        index, first, last, step = (environment.get(name, "1" if not name else "") for name in names)
        if not (is_whole(index) and is_whole(first) and is_whole(last)) or index == "0" == first == last:
            continue
        if names[0] == "LSB_JOBINDEX" and index == "0":  # a job that is no array
            continue
        width = int(step) if is_whole(step) and int(step) else 1
        place, count = (int(index) - int(first)) // width + 1, (int(last) - int(first)) // width + 1
        told = (
            environment.get("SLURM_ARRAY_TASK_COUNT", str(count))
            if names[0].startswith("SLURM")
            else str(count)
        )
        if told != str(count) or not 1 <= place <= count or (int(index) - int(first)) % width:
            raise _unclear(names[0], index, f"the array has gaps ({told} tasks between {first} and {last})")
        return Position(place, count, names[0]) if count > 1 else None
    for name in _WITHOUT_SIZE:
        if is_whole(environment.get(name, "")):
            raise _unclear(name, environment[name], "the batch system gives no number of tasks")
    return None


def _pbs_range(environment: Mapping[str, str]) -> dict[str, str]:
    """The indices of the job array of PBS, from qstat; empty if it does not give them.

    Source: PBS Professional Reference Guide, job attribute `array_indices_submitted`, e.g. 1-9:2.
    """
    job = re.sub(r"\[\d+\]", "[]", environment.get("PBS_JOBID", ""))
    if "PBS_ARRAY_INDEX" not in environment or "[]" not in job:
        return {}
    try:
        done = subprocess.run(
            ["qstat", "-f", job], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    found = re.search(r"array_indices_submitted = (\d+)-(\d+)(?::(\d+))?\s*$", done.stdout, re.MULTILINE)
    return dict(zip(_PBS, found.groups("1"), strict=True)) if found else {}


def without_position(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a command that does the whole of its work."""
    return {name: value for name, value in environment.items() if name not in _VARIABLES}


def _unclear(name: str, index: str, fact: str) -> RecipeError:
    return RecipeError(
        f"{name}={index}: a task of a job array, but {fact}. Give --shard, e.g. --shard ${name}/4 if the "
        "first index is 1, or --shard 1/1 if every task has cases of its own."
    )
