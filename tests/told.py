"""Progress that keeps what it is told."""

from __future__ import annotations

from mambamed.progress import Silence


class Told(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
