"""Records of a training: the progress callback, train.log, log.csv and pictures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.io.atomic import append_text, write_bytes
from mambamed.io.tables import write_csv
from mambamed.progress import Progress, Silence
from mambamed.report.progress import draw_progress
from mambamed.run.folder import PATCHES
from mambamed.training.trackers import Tracker, scalars


class Journal:
    """Sends each line to `progress` and, with a time stamp, to the train.log of the existing fold folder."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.progress = progress
        self._folder = folder
        self._trackers: list[Tracker] = []

    def follow(self, trackers: Sequence[Tracker]) -> None:
        """Send the rows of log.csv to these, too."""
        self._trackers = list(trackers)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def say(self, line: str) -> None:
        """Report and log one line."""
        self.progress.say(line)
        self.note(line)

    def note(self, line: str) -> None:
        """Log one line."""
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        append_text(self._folder / "train.log", f"{stamp}  {line}\n")

    def tabulate(self, history: Sequence[Mapping[str, Any]], score_name: str, higher_is_better: bool) -> None:
        """Rewrite log.csv and progress.png."""
        if history:
            headers = list(history[0])
            rows = [[row[header] for header in headers] for row in history]
            write_csv(self._folder / "log.csv", headers, rows)
            draw_progress(history, self._folder / "progress.png", score_name, higher_is_better)
            for tracker in self._trackers:
                tracker.row(history[-1]["epoch"], scalars(history[-1], score_name))

    def picture(self, patches: bytes) -> None:
        """Replace the picture of validation patches."""
        write_bytes(self._folder / PATCHES, patches)


class SilentJournal(Journal):
    """Of all processes but the first: it writes nothing."""

    def __init__(self) -> None:
        super().__init__(Path(), Silence())

    def say(self, line: str) -> None:
        """Ignore the line."""

    def note(self, line: str) -> None:
        """Ignore the line."""

    def tabulate(self, history: Sequence[Mapping[str, Any]], score_name: str, higher_is_better: bool) -> None:
        """Ignore the rows."""

    def picture(self, patches: bytes) -> None:
        """Ignore the picture."""
