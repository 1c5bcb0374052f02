"""What a person sees while a verb works."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from mambamed.cli.progress import Bar, BarOverFacts


def test_the_bar_and_all_facts_are_readable_on_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    live = BarOverFacts(*columns, console=console)
    bar = Bar(live)
    bar.start("training fold 0", 250_000, "steps")
    facts = {"epoch": 5.0, "loss": 0.31234, "dice": "0.812 (0.901 0.833 0.702)", "lr": 0.00912}
    bar.advance(1234, **facts, **{"patches/s": 3.21, "GiB": 10.2})
    console.print(live.get_renderable())
    shown = console.file.getvalue()
    for part in (
        "training fold 0",
        "1234/250000",
        "loss 0.312",
        "(0.901 0.833 0.702)",
        "lr 0.00912",
        "GiB 10.2",
    ):
        assert part in shown, part
    assert max(len(line) for line in shown.splitlines()) <= 80
