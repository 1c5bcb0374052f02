"""Progress output: a live bar on a terminal, plain lines in a log, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from mambamed.progress import Progress, Silence
from mambamed.terminal import Escaped, printable, unescaped

_SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def open_progress(quiet: bool) -> Iterator[Progress]:
    """Choose the progress output that suits stderr.

    Args:
        quiet: show nothing.

    Yields:
        A `Progress`; its bar is removed when the block ends.
    """
    console = Console(file=unescaped(sys.stderr))
    if quiet:
        yield Silence()
    elif console.is_terminal:
        bar = BarOverFacts(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        with bar:  # which replaces both streams until it ends, and draws what they receive above itself
            sys.stdout, sys.stderr = cast(TextIO, Escaped(sys.stdout)), cast(TextIO, Escaped(sys.stderr))
            yield Bar(bar)
    else:
        yield Lines()


class BarOverFacts(RichProgress):
    """The bar on one line and the current values below it, so that both fit into 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["facts"]:
                yield Text(printable(task.fields["facts"]), style="cyan")


class Bar:
    """A live bar; messages scroll above it."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._done = 0
        self._task = self._bar.add_task(printable(stage), total=total, unit=printable(unit), facts="")

    def advance(self, count: int = 1, **facts: str | float) -> None:
        if self._task is not None:
            self._done += count
            before = self._bar.tasks[self._bar.task_ids.index(self._task)].completed
            self._bar.update(self._task, completed=max(before, self._done + part_of(facts)))
            if facts:
                self._bar.update(self._task, facts=show_facts(facts))

    def say(self, line: str) -> None:
        self._bar.console.print(Text(printable(line)))


class Lines:
    """Plain lines for a log: one every twenty seconds and one at the end of each stage."""

    def __init__(self) -> None:
        self._stage, self._unit = "", ""
        self._done, self._total = 0, 0
        self._reached = 0.0  # cases, with the part of the current one
        self._began = self._said = time.monotonic()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._unit = stage, unit
        self._done, self._total, self._reached = 0, total, 0.0
        self._began = self._said = time.monotonic()

    def advance(self, count: int = 1, **facts: str | float) -> None:
        self._done += count
        self._reached = max(self._reached, self._done + part_of(facts))
        now = time.monotonic()
        if now - self._said < _SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._said = now
        seconds = now - self._began
        line = f"{self._stage} {self._done}/{self._total} {self._unit}, {seconds:.0f} s"
        if self._reached:
            line += f", {seconds / self._reached * (self._total - self._reached):.0f} s left"
        self.say(f"{line}  {show_facts(facts)}".rstrip())

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def part_of(facts: Mapping[str, str | float]) -> float:
    """How much of the current case is done, by its windows.

    >>> part_of({"case": "a", "windows": "3/12"}), part_of({"loss": 0.5})
    (0.25, 0.0)
    """
    done, _, total = str(facts.get("windows", "")).partition("/")
    return int(done) / int(total) if total.isdecimal() and int(total) else 0.0


def show_facts(facts: dict[str, str | float]) -> str:
    """Format values as text, e.g. `loss 0.312  dice 0.841`.

    >>> show_facts({"loss": 0.3124, "case": "BRATS_001"})
    'loss 0.312  case BRATS_001'
    """
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
