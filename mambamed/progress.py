"""The progress callback: its protocol, the one that shows nothing, and the time that a stage takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Callback that receives progress updates; `progress=None` disables them."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage (e.g. `"preparing"`) of `total` units (e.g. `"cases"`) starts; the previous one ends."""

    def advance(self, count: int = 1, **facts: str | float) -> None:
        """`count` more units are done; `facts` are current values to show, e.g. `loss=0.31`."""

    def say(self, line: str) -> None:
        """A message: a choice and its reason, a warning, or the path of a written file."""


class Silence:
    """Shows nothing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **facts: str | float) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Stage:
    """A stage of the work: how much of it is done, and how long the rest may take."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.reached = 0.0  # units, with the finished part of the current case
        self.seconds = 0.0
        self._began = time.monotonic()

    def advance(self, count: int, facts: Mapping[str, str | float]) -> None:
        """`count` more units are done."""
        self.done += count
        self.reached = max(self.reached, self.done + part_of(facts))
        self.seconds = time.monotonic() - self._began

    @property
    def seconds_left(self) -> float | None:
        """None before anything is done."""
        return self.seconds / self.reached * (self.total - self.reached) if self.reached else None


def part_of(facts: Mapping[str, str | float]) -> float:
    """How much of the current case is done, by its windows.

    >>> part_of({"case": "a", "windows": "3/12"}), part_of({"loss": 0.5})
    (0.25, 0.0)
    """
    done, _, total = str(facts.get("windows", "")).partition("/")
    return int(done) / int(total) if total.isdecimal() and int(total) else 0.0
