"""Progress output: a live bar on a terminal, plain lines in a log, nothing with --quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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

from mambamed.progress import Progress, Silence, Stage
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
        self._stage = Stage("", 0, "")

    def start(self, stage: str, total: int, unit: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._stage = Stage(stage, total, unit)
        self._task = self._bar.add_task(printable(stage), total=total, unit=printable(unit), facts="")

    def advance(self, count: int = 1, **facts: str | float) -> None:
        if self._task is not None:
            self._stage.advance(count, facts)
            self._bar.update(self._task, completed=self._stage.reached)
            if facts:
                self._bar.update(self._task, facts=show_facts(facts))

    def say(self, line: str) -> None:
        self._bar.console.print(Text(printable(line)))


class Lines:
    """Plain lines for a log: one every twenty seconds and one at the end of each stage."""

    def __init__(self) -> None:
        self._stage = Stage("", 0, "")
        self._said = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._said = Stage(stage, total, unit), 0.0

    def advance(self, count: int = 1, **facts: str | float) -> None:
        stage = self._stage
        stage.advance(count, facts)
        if stage.seconds - self._said < _SECONDS_BETWEEN_LINES and stage.done < stage.total:
            return
        self._said = stage.seconds
        line = f"{stage.name} {stage.done}/{stage.total} {stage.unit}, {stage.seconds:.0f} s"
        if stage.seconds_left is not None:
            line += f", {stage.seconds_left:.0f} s left"
        self.say(f"{line}  {show_facts(facts)}".rstrip())

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def show_facts(facts: dict[str, str | float]) -> str:
    """Format values as text, e.g. `loss 0.312  dice 0.841`.

    >>> show_facts({"loss": 0.3124, "case": "BRATS_001"})
    'loss 0.312  case BRATS_001'
    """
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
