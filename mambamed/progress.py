"""The progress callback: its protocol, and the one that shows nothing."""

from __future__ import annotations

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
