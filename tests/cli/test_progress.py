"""What a person sees while a verb works."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from mambamed.cli.progress import Bar, BarOverFacts, Lines


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


def test_the_time_left_counts_the_windows_of_the_current_case(capsys, monkeypatch) -> None:
    now = iter([0.0, 0.0, 30.0, 60.0, 100.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    lines = Lines()
    lines.start("predicting", 2, "cases")
    lines.advance(0, windows="3/10")
    lines.advance(0, windows="6/10")
    lines.advance(1, case="a")
    shown = [line.partition(" left")[0] for line in capsys.readouterr().err.splitlines()]
    # 30 s for 0.3 cases: 170 s for the other 1.7, and so on
    assert shown == [
        "predicting 0/2 cases, 30 s, 170 s",
        "predicting 0/2 cases, 60 s, 140 s",
        "predicting 1/2 cases, 100 s, 100 s",
    ]
