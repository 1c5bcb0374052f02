"""The cost of a whole training from its pace, and the check whether a time is enough for it."""

from __future__ import annotations

import math

from mambamed.errors import RecipeError
from mambamed.run.training_cost import TrainingCost, duration
from mambamed.training.schedule import Pace


class TimeLimitError(RecipeError):
    """A limit of time in which not even one step and the validation fit.

    Attributes:
        pace: what was measured.
    """

    def __init__(self, message: str, pace: Pace) -> None:
        super().__init__(message)
        self.pace = pace


def cost_of(pace: Pace, steps: int, steps_per_epoch: int, device: str, peak_gib: float) -> TrainingCost:
    """The cost of `steps` steps at a pace."""
    training = pace.training_seconds(steps, steps_per_epoch) / 3600
    return TrainingCost(device, pace.step_seconds, steps, training, pace.validation_seconds / 3600, peak_gib)


def check_time(pace: Pace, seconds: float, option: str, unit_seconds: int = 3600) -> None:
    """Reject a time in which not even one step and the validation fit.

    Args:
        option: named in the error, e.g. "--max-hours".
        unit_seconds: of the unit of the option.

    Raises:
        TimeLimitError: with the measured figures.

    >>> check_time(Pace(39.0, 20.0, 505.0), 180, "--max-hours")
    Traceback (most recent call last):
    mambamed.training.costs.TimeLimitError: --max-hours 0.05: one step takes 39 s here, the end ...
    """
    needed = pace.step_seconds + pace.epoch_seconds + pace.validation_seconds
    if needed > seconds:
        least = math.ceil(needed / unit_seconds * 100) / 100
        step, epoch, volumes = (
            duration(each / 3600) for each in (pace.step_seconds, pace.epoch_seconds, pace.validation_seconds)
        )
        raise TimeLimitError(
            f"{option} {seconds / unit_seconds:g}: one step takes {step} here, the end of an epoch about "
            f"{epoch} and the validation of whole volumes about {volumes}. Use at least {option} {least:g} "
            "and more for the training itself, a smaller recipe, or a GPU.",
            pace,
        )
