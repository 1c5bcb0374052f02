"""What a training may take: hours of wall time, or minutes of CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mambamed.errors import RecipeError


def clock_of(cpu: bool) -> Callable[[], float]:
    """Seconds of CPU time of this process, with all its threads, or of wall time."""
    return time.process_time if cpu else time.monotonic


@dataclass(frozen=True)
class TimeLimit:
    """A limit whose time is running.

    Attributes:
        seconds: from the beginning.
        cpu: whether they are CPU time of this process, with all its threads.
        began: what the clock showed then.
    """

    seconds: float
    cpu: bool
    began: float

    @classmethod
    def of(cls, max_hours: float | None, max_cpu_minutes: float | None = None) -> TimeLimit | None:
        """The limit that the options ask for, from now on; None without one.

        Raises:
            RecipeError: both are given.
        """
        if max_hours is not None and max_cpu_minutes is not None:
            raise RecipeError("--max-hours, --max-cpu-minutes: are two limits. Give one of them.")
        if max_hours is not None:
            return cls(max_hours * 3600, False, time.monotonic())
        if max_cpu_minutes is not None:
            return cls(max_cpu_minutes * 60, True, time.process_time())
        return None

    def part(self, parts: int) -> TimeLimit:
        """An equal share of what is left for each of so many trainings, from now on."""
        now = clock_of(self.cpu)()
        return TimeLimit(max(self.began + self.seconds - now, 0.0) / parts, self.cpu, now)

    @property
    def option(self) -> str:
        """The option that sets it."""
        return "--max-cpu-minutes" if self.cpu else "--max-hours"

    @property
    def unit_seconds(self) -> int:
        """Seconds of the unit of the option."""
        return 60 if self.cpu else 3600
