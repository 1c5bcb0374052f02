"""What a whole training costs on a device, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LONG_HOURS = 24.0


@dataclass(frozen=True)
class TrainingCost:
    """Cost of the training of one fold; the times follow from the measured time of a step."""

    device: str  # e.g. "cpu"
    step_seconds: float
    steps: int
    training_hours: float  # of all steps and the ends of all epochs
    validation_hours: float  # of whole volumes, after the training
    peak_gib: float  # memory of the device (of the whole process on a CPU); NaN if unknown

    @property
    def hours(self) -> float:
        """Of training and validation."""
        return self.training_hours + self.validation_hours

    def lines(self) -> list[str]:
        """The cost in one line; if it is more than a day, also a line about what to do."""
        memory = "" if math.isnan(self.peak_gib) else f", {self.peak_gib:.1f} GiB of memory"
        lines = [
            f"cost on {self.device}: {duration(self.step_seconds / 3600)} per step, {self.steps} steps about "
            f"{duration(self.training_hours)}, validation of whole volumes about "
            f"{duration(self.validation_hours)}{memory}"
        ]
        if self.hours > _LONG_HOURS:
            gpu = " or a GPU" if self.device == "cpu" else " or a faster GPU"
            lines.append(
                f"{duration(self.hours)} is long. Use --max-hours to shorten the schedule, a smaller recipe "
                f"(mambamed recipes new --hours),{gpu}."
            )
        return lines


def duration(hours: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.21 / 3600), duration(39 / 3600), duration(0.2), duration(3.24), duration(3056)
    ('0.21 s', '39 s', '12 min', '3.2 h', '127 days')
    """
    seconds = hours * 3600
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
