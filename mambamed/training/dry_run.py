"""Some training steps at full size, to measure what a recipe costs."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from mambamed.batches.loader import Batch
from mambamed.errors import RecipeError, RunError
from mambamed.memory import free_memory_bytes, is_out_of_memory, shortage
from mambamed.networks.cost import step_gflops
from mambamed.run.device import peak_memory
from mambamed.run.folder import Run
from mambamed.run.training_cost import TrainingCost
from mambamed.run.workplace import Workplace
from mambamed.tasks.base import Task
from mambamed.training import estimate
from mambamed.training.state import TrainingState
from mambamed.training.step import Steps

_REPEATS = 3
_ENOUGH_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class DryRun:
    """Cost of one step."""

    network: str  # its name in the recipe
    parts: dict[str, int]  # direct part of the network -> parameters; a part used twice counts once
    parameters: int  # of the whole network
    patch_size: tuple[int, ...]
    batch_size: int
    # floating point operations of forward and backward, 10^9: convolutions and products, without the scans
    gflops: float
    # of a step; short ones are repeated, because the first one of a process is slower
    seconds: float
    peak_gib: float  # largest memory of the device (of the whole process on the CPU), GiB; NaN if unknown
    loss: float  # of the untrained network
    cost: TrainingCost | None = None  # of the whole training


def take_one_step(
    state: TrainingState,
    task: Task,
    batch: Batch,
    place: Workplace,
    run: Run,
    clock: Callable[[], float] = time.monotonic,
) -> DryRun:
    """Take training steps on one batch of full size, as the loop does, and measure them; changes the state.

    Steps are repeated, at most three times, until ten seconds of the clock have passed.
    """
    patch_size = tuple(batch.image.shape[2:])
    patches = len(batch.image) * run.recipe.training.accumulate
    gflops = step_gflops(without_numbers(run), batch.image.shape[1], patch_size, patches)
    times: list[float] = []
    losses: list[float] = []
    steps = Steps(state, task, place, run.recipe.training)
    while len(times) <= _REPEATS and sum(times) < _ENOUGH_SECONDS:
        began = clock()
        losses.append(steps.take(itertools.repeat(batch), len(times)).read()[0])
        times.append(clock() - began)
    network = state.network
    return DryRun(
        network=run.recipe.network.name,
        parts=parameters_by_part(network),
        parameters=sum(p.numel() for p in network.parameters()),
        patch_size=patch_size,
        batch_size=len(batch.image),
        gflops=gflops,
        seconds=statistics.median(times[1:] or times),
        peak_gib=peak_memory(place.device) / 2**30,
        loss=losses[0],
    )


def within_memory(run: Run, place: Workplace) -> tuple[Run, str | None]:
    """The run with as much of a step as fits into this machine's memory, and a line if that is not all of it.

    First fewer patches, then gradient checkpointing, with the same network and patch. A CUDA device reports
    itself when memory is exhausted. The estimate is that of float32; steps in bf16 were measured to need as
    much on a CPU.

    Raises RecipeError: not even one patch with checkpointing fits, so that the system would kill the process.
    """
    free = free_memory_bytes()
    if place.device.type != "cpu" or free is None:
        return run, None
    recipe = run.recipe
    fewer = dataclasses.replace(run, plan=run.plan.changed(batch_size=1))
    network = recipe.network.model_copy(update={"gradient_checkpointing": True})
    least = dataclasses.replace(fewer, recipe=recipe.model_copy(update={"network": network}))
    wanted = needed = step_gib(run)
    for tried, how in ((run, ""), (fewer, ""), (least, " with gradient checkpointing")):
        needed = step_gib(tried)
        if needed * 2**30 <= free:
            patches = f"{tried.plan.batch_size} of {run.plan.batch_size} patches{how}"
            line = f"a training step needs about {wanted:.1f} GiB, {free / 2**30:.1f} are free here: "
            return tried, None if tried is run else f"{line}taken with {patches}"
    raise RecipeError(
        f"recipe {recipe.name}: a step of one patch with gradient checkpointing needs about "
        f"{needed:.1f} GiB, {free / 2**30:.1f} are free; give a smaller --set training.patch_size=[X,Y,Z]"
    )


@contextmanager
def shortage_named(run: Run) -> Iterator[None]:
    """Within the block, exhausted memory is one line with what a step takes and what to change.

    Raises:
        RunError: memory was exhausted.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        patches = f"{run.plan.batch_size} patches of {'x'.join(map(str, run.plan.patch_size))}"
        raise RunError(
            f"recipe {run.recipe.name}: the training {shortage(error)}. A step of {patches} takes about "
            f"{step_gib(run):.1f} GiB. Use a smaller training.patch_size or training.batch_size, --fit auto "
            "or network.gradient_checkpointing=true."
        ) from error


def step_gib(run: Run) -> float:
    """Estimated memory of a training step in float32, GiB."""
    return estimate.step_gib(run.recipe, run.manifest, run.plan.patch_size, run.plan.batch_size)


def without_numbers(run: Run) -> nn.Module:
    """The network of a run without memory for its weights."""
    return estimate.without_numbers(run.recipe, run.manifest)


def parameters_by_part(network: nn.Module) -> dict[str, int]:
    """Direct part -> number of its parameters, without those of earlier parts.

    >>> parameters_by_part(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    {'0': 8}
    """
    seen: set[int] = set()
    parts = {}
    for name, part in network.named_children():
        new = {id(p): p.numel() for p in part.parameters() if id(p) not in seen}
        seen |= set(new)
        if new:
            parts[name] = sum(new.values())
    return parts
