"""The schedule of the learning rate, and the number of steps that fit into a given time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mambamed.recipe import Schedule
from mambamed.volumes.sliding_window import windows_along

_FORWARD_SHARE = 0.4  # of a training step, before it is measured


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """Learning rate of one step, counted from 0.

    With t = (step - warmup) / (steps - warmup): poly base (1 - t)^power, linear base (1 - t), cosine
    base (1 + cos(pi t)) / 2, constant base; before it a linear increase to base over the warm-up steps.

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
    """Measured cost of a training."""

    step_seconds: float
    epoch_seconds: float  # of the end of an epoch: validation patches, checkpoints, pictures
    validation_seconds: float  # of the whole-volume validation at the end, an estimate

    @classmethod
    def of_step(cls, seconds: float, batch_size: int, epoch_passes: int, final_passes: int) -> Pace:
        """The pace if only a training step is measured.

        Args:
            seconds: of a step.
            epoch_passes: patches that are scored after each epoch.
            final_passes: patches of the validation of whole volumes.
        """
        forward = _FORWARD_SHARE * seconds / batch_size
        return cls(seconds, forward * epoch_passes, forward * final_passes)

    def training_seconds(self, steps: int, steps_per_epoch: int) -> float:
        """Seconds of the steps and of the ends of their epochs.

        >>> Pace(1.0, 10.0, 100.0).training_seconds(250, 100)
        280.0
        """
        return steps * self.step_seconds + math.ceil(steps / steps_per_epoch) * self.epoch_seconds


def steps_that_fit(pace: Pace, done: int, steps_per_epoch: int, seconds_left: float, most: int) -> int:
    """Length of the run, in steps, so that it ends with its validation in `seconds_left`.

    `done` steps were taken before; `most` is the recipe's number of steps, which is never exceeded.

    >>> steps_that_fit(Pace(1.0, 10.0, 100.0), 10, 100, 1200.0, 10_000)
    1000
    """
    per_step = pace.step_seconds + pace.epoch_seconds / steps_per_epoch
    # The last epoch may be shorter, and ends separately.
    spare = seconds_left - pace.validation_seconds - pace.epoch_seconds
    return min(most, done + max(0, int(spare / per_step)))


def window_count(shape: tuple[int, ...], patch_size: tuple[int, ...], overlap: float) -> int:
    """Number of sliding windows that cover a case.

    >>> window_count((128, 128, 200), (128, 128, 128), 0.5)
    3
    """
    sizes = zip(shape, patch_size, strict=True)
    return math.prod(windows_along(size, patch, overlap) for size, patch in sizes)
