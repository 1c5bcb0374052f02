"""What the server answers: the subject, its cases and their volumes, as JSON values and NIfTI."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mambamed.report.planes import color_of
from mambamed.viewer.content import CaseView, Column, PointPair, Subject, label_entries
from mambamed.viewer.notes import Notes
from mambamed.viewer.volumes import as_nifti

_KEPT = 3  # cases whose files are known; the browser keeps the volumes of one


class Answers:
    """Answers about one subject; safe to be asked by several threads."""

    def __init__(self, shown: Subject, notes: Notes | None = None) -> None:
        self.shown, self.notes = shown, notes
        self._kept: dict[int, CaseView] = {}
        self._lock = threading.Lock()

    def subject(self) -> dict[str, Any]:
        """Everything that the page needs before a case is chosen."""
        if self.shown.renew is not None:
            with self._lock:
                self.shown = self.shown.renew()
        shown = self.shown
        return {
            "title": shown.title,
            "kind": shown.kind,
            "ids": list(shown.ids),
            "columns": _columns(shown.columns),
            "rows": [[plain(cell) for cell in row] for row in shown.rows],
            "labels": label_entries(shown.labels),
            "sort_by": shown.sort_by,
            "report": shown.report is not None,
            "training": shown.training is not None,
            "notes": self.notes is not None,
            "faults": list(shown.faults),
        }

    def case(self, index: int) -> dict[str, Any] | None:
        """The volumes and points of a case; None if there is no such case."""
        view = self._view(index)
        if view is None:
            return None
        return {
            "id": self.shown.ids[index],
            "volumes": [
                {"name": v.name, "role": v.role, "kind": v.kind, "source": v.source} for v in view.volumes
            ],
            "points": [_point(number, pair) for number, pair in enumerate(view.points)],
            "facts": {name: plain(value) for name, value in view.facts.items()},
            "remarks": list(view.remarks),
        }

    def volume(self, index: int, number: int) -> bytes | None:
        """A volume as compressed NIfTI; None if there is no such volume.

        Raises:
            MambamedError: it cannot be read.
        """
        view = self._view(index)
        if view is None or number >= len(view.volumes):
            return None
        return as_nifti(view.volumes[number].read())

    def _view(self, index: int) -> CaseView | None:
        if index >= len(self.shown.ids):
            return None
        with self._lock:
            if index not in self._kept:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[index] = self.shown.open_case(index)
            return self._kept[index]


def _columns(columns: Sequence[Column]) -> list[dict[str, str]]:
    """Titles and directions; equal titles, e.g. with a region called "mean", get a number."""
    seen: Counter[str] = Counter()
    found = []
    for column in columns:
        seen[column.title] += 1
        count = seen[column.title]
        title = column.title if count == 1 else f"{column.title} ({count})"
        found.append({"title": title, "better": column.better})
    return found


def plain(value: Any) -> Any:
    """A value for JSON, which has no NaN (here: null) and no infinity (here: text)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _point(number: int, pair: PointPair) -> dict[str, Any]:
    both = pair.reference is not None and pair.prediction is not None
    return {
        "name": pair.name,
        "color": color_of(number),
        "reference": pair.reference,
        "prediction": pair.prediction,
        "error_mm": math.dist(pair.reference or (), pair.prediction or ()) if both else None,
    }
