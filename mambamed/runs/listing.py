"""The runs of a folder, at a glance. No torch."""

from __future__ import annotations

import csv
import datetime
from dataclasses import dataclass
from pathlib import Path

from mambamed.errors import MambamedError
from mambamed.io.lock import is_locked
from mambamed.runs.folder import Run

_PLACES = ("recipe.yaml", "*/recipe.yaml", "*/*/recipe.yaml")
_ERRORS = {"error_mm"}  # scores of which less is better


@dataclass(frozen=True)
class RunLine:
    """One fold of a run.

    Attributes:
        run: its folder.
        fold: index of the fold.
        task, network: the recipe's.
        state: "training", "done" (whole validation cases are scored), or "stopped".
        epoch, epochs: finished, and asked for.
        score_name, score: of the best epoch's validation patches; None before there is one.
        updated: when its log was last written, local time.
    """

    run: Path
    fold: int
    task: str
    network: str
    state: str
    epoch: int
    epochs: int
    score_name: str
    score: float | None
    updated: str


@dataclass(frozen=True)
class RunList:
    """What was found, and what could not be read, a line each."""

    runs: tuple[RunLine, ...]
    faults: tuple[str, ...]


def list_runs(folder: Path) -> RunList:
    """Every trained fold of every run below a folder, two storeys deep, by name."""
    lines, faults = [], []
    roots = sorted({path.parent for pattern in _PLACES for path in folder.glob(pattern)})
    for root in roots:
        found = _lines(root)
        if isinstance(found, str):
            faults.append(found)
        else:
            lines += found
    return RunList(tuple(lines), tuple(faults))


def _lines(root: Path) -> list[RunLine] | str:
    try:
        run = Run.open(root)
    except MambamedError as error:
        return str(error)
    return [_line(run, fold) for fold in run.folds]


def _line(run: Run, fold: int) -> RunLine:
    folder = run.fold_folder(fold)
    log, best, summary = folder / "log.csv", run.checkpoint(fold, "best"), folder / "summary.json"
    rows = []
    if log.is_file():
        with log.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    if is_locked(folder):
        state = "training"
    elif summary.is_file() and best.is_file() and summary.stat().st_mtime_ns >= best.stat().st_mtime_ns:
        state = "done"
    else:
        state = "stopped"
    # The score's column is the one after the validation loss.
    name = list(rows[0])[list(rows[0]).index("validation_loss") + 1] if rows else ""
    scores = [float(row[name]) for row in rows if row.get(name) not in {None, "", "nan"}]
    pick = min if name in _ERRORS else max
    stamp = (log if rows else run.checkpoint(fold, "last")).stat().st_mtime
    return RunLine(
        run=run.root,
        fold=fold,
        task=run.recipe.task,
        network=run.recipe.network.name,
        state=state,
        epoch=int(rows[-1]["epoch"]) if rows else 0,
        epochs=run.recipe.training.epochs,
        score_name=name,
        score=pick(scores) if scores else None,
        updated=datetime.datetime.fromtimestamp(stamp).isoformat(" ", "minutes"),
    )
