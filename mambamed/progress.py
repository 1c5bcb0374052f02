"""How a long verb tells how far it is, whoever listens: a progress bar, a log, nobody."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a verb calls while it works. The verbs take `progress=None` for nobody."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins (`"preparing"`) and will take `total` units (`"cases"`); it ends the one before."""

    def advance(self, count: int = 1, **facts: str | float) -> None:
        """`count` more units are done; `facts` are what a person wants to see now, as in `loss=0.31`."""

    def say(self, line: str) -> None:
        """A line worth keeping: what was chosen and why, a warning, where something was written."""


class Silence:
    """Nobody listens."""

    def start(self, stage: str, total: int, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **facts: str | float) -> None:
        pass

    def say(self, line: str) -> None:
        pass
