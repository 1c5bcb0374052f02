"""How the learning rate falls, and how many steps fit into a given time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mambamed.recipe import Schedule


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """Learning rate of one step.

    Args:
        schedule: the recipe's.
        base: rate at the start of the schedule.
        step: counted from 0.
        steps: of the whole run; the rate would be 0 at `step == steps`, but for "constant".

    Returns:
        With t = (step - warmup) / (steps - warmup): poly base (1 - t)^power, linear base (1 - t), cosine
        base (1 + cos(pi t)) / 2, constant base; before it a linear rise to base over the warm-up steps.

    >>> learning_rate(Schedule(name="linear"), 0.1, 25, 100)
    0.075...
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return base * (step + 1) / warmup
    t = min((step - warmup) / max(steps - warmup, 1), 1.0)
    if schedule.name == "poly":
        return base * (1 - t) ** schedule.power
    if schedule.name == "linear":
        return base * (1 - t)
    if schedule.name == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * t))
    return base


@dataclass(frozen=True)
class Pace:
    """What a training costs, as measured.

    Attributes:
        step_seconds: one step.
        epoch_seconds: what the end of an epoch adds: validation patches, checkpoints, pictures.
        validation_seconds: the whole-volume validation at the end, an estimate.
    """

    step_seconds: float
    epoch_seconds: float
    validation_seconds: float


def steps_that_fit(pace: Pace, done: int, steps_per_epoch: int, seconds_left: float, most: int) -> int:
    """Length of the run, in steps, so that it ends with its validation in `seconds_left`.

    Args:
        pace: measured costs.
        done: steps already taken.
        steps_per_epoch: the recipe's.
        seconds_left: until everything must be done.
        most: the recipe's own number of steps, never exceeded.

    >>> steps_that_fit(Pace(1.0, 10.0, 100.0), 10, 100, 1200.0, 10_000)
    1000
    """
    per_step = pace.step_seconds + pace.epoch_seconds / steps_per_epoch
    # The last epoch may be a short one and has an end of its own.
    spare = seconds_left - pace.validation_seconds - pace.epoch_seconds
    return min(most, done + max(0, int(spare / per_step)))


def window_count(shape: tuple[int, ...], patch_size: tuple[int, ...], overlap: float) -> int:
    """How many windows a sliding patch takes over a case.

    >>> window_count((128, 128, 200), (128, 128, 128), 0.5)
    3
    """
    count = 1
    for size, patch in zip(shape, patch_size, strict=True):
        step = max(1, int(patch * (1 - overlap)))
        count *= 1 + math.ceil(max(0, size - patch) / step)
    return count
