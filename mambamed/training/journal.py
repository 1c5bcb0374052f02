"""What a training tells: to whoever listens, to train.log, to log.csv and to progress.png."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.io.atomic import append_text
from mambamed.io.tables import write_csv
from mambamed.progress import Progress, Silence
from mambamed.report.progress import draw_progress
from mambamed.training.trackers import Tracker, scalars


class Journal:
    """Says each line twice: to `progress`, and with the time of day to the fold's train.log.

    Args:
        folder: the fold's; it exists.
        progress: who listens.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.progress = progress
        self._folder = folder
        self._trackers: list[Tracker] = []

    def follow(self, trackers: Sequence[Tracker]) -> None:
        """Tell these too what an epoch brought."""
        self._trackers = list(trackers)

    def close(self) -> None:
        """The training ends."""
        for tracker in self._trackers:
            tracker.close()

    def say(self, line: str) -> None:
        """A line worth keeping."""
        self.progress.say(line)
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        append_text(self._folder / "train.log", f"{stamp}  {line}\n")

    def tabulate(self, history: Sequence[Mapping[str, Any]], score_name: str, higher_is_better: bool) -> None:
        """Write log.csv and progress.png anew."""
        if history:
            headers = list(history[0])
            rows = [[row[header] for header in headers] for row in history]
            write_csv(self._folder / "log.csv", headers, rows)
            draw_progress(history, self._folder / "progress.png", score_name, higher_is_better)
            for tracker in self._trackers:
                tracker.row(history[-1]["epoch"], scalars(history[-1], score_name))


class SilentJournal(Journal):
    """Of a process that follows another one: it writes nothing."""

    def __init__(self) -> None:
        super().__init__(Path(), Silence())

    def say(self, line: str) -> None:
        """Nothing."""

    def tabulate(self, history: Sequence[Mapping[str, Any]], score_name: str, higher_is_better: bool) -> None:
        """Nothing."""
