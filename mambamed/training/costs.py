"""The cost of a whole training from its pace, and the check whether a time is enough for it."""

from __future__ import annotations

import math

from mambamed.errors import RecipeError
from mambamed.run.training_cost import TrainingCost, duration
from mambamed.training.schedule import Pace


def cost_of(pace: Pace, steps: int, steps_per_epoch: int, device: str, peak_gib: float) -> TrainingCost:
    """The cost of `steps` steps at a pace."""
    training = pace.training_seconds(steps, steps_per_epoch) / 3600
    return TrainingCost(device, pace.step_seconds, steps, training, pace.validation_seconds / 3600, peak_gib)


def check_time(pace: Pace, hours: float, option: str) -> None:
    """Reject a time in which not even one step and the validation fit.

    Raises:
        RecipeError: with the measured figures; `option` is named in it, e.g. "--max-hours".

    >>> check_time(Pace(39.0, 20.0, 505.0), 0.05, "--max-hours")
    Traceback (most recent call last):
    mambamed.errors.RecipeError: --max-hours 0.05: one step takes 39 s here, the end of an epoch about ...
    """
    needed = (pace.step_seconds + pace.epoch_seconds + pace.validation_seconds) / 3600
    if needed > hours:
        least = math.ceil(needed * 100) / 100
        raise RecipeError(
            f"{option} {hours:g}: one step takes {duration(pace.step_seconds / 3600)} here, the end of an "
            f"epoch about {duration(pace.epoch_seconds / 3600)} and the validation of whole volumes about "
            f"{duration(pace.validation_seconds / 3600)}. Use at least {option} {least:g} and more for the "
            "training itself, a smaller recipe, or a GPU."
        )
