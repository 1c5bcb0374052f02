"""The runs of a folder: state and best score of each fold. No torch, except for runs of version 0.1.0."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path

from mambamed.documents.run import ScoreRecord
from mambamed.documents.splits import FoldName
from mambamed.errors import MambamedError, ModelError
from mambamed.io.lock import is_locked
from mambamed.io.tables import read_csv
from mambamed.run.folder import CHECKPOINTS, Run

_PLACES = ("recipe.yaml", "*/recipe.yaml", "*/*/recipe.yaml")


@dataclass(frozen=True)
class RunLine:
    """One fold of a run."""

    run: Path  # its folder
    fold: FoldName
    task: str
    network: str
    state: str  # "training", "done" (and whole validation cases are scored), or "stopped"
    epoch: int  # finished
    epochs: int  # asked for
    score_name: str
    score: float | None  # of the best epoch's validation patches; None before there is one
    updated: str  # when its log was last written, local time


@dataclass(frozen=True)
class RunList:
    """What was found, and what could not be read, a line each."""

    runs: tuple[RunLine, ...]
    faults: tuple[str, ...]


def list_runs(folder: Path) -> RunList:
    """Every trained fold of every run in a folder and its subfolders, two levels deep, by name."""
    lines, faults = [], []
    roots = sorted({path.parent for pattern in _PLACES for path in folder.glob(pattern)})
    for root in roots:
        try:
            run = Run.open(root)
            lines += [_line(run, fold) for fold in run.folds]
        except MambamedError as error:  # noqa: PERF203
            faults.append(str(error))
    return RunList(tuple(lines), tuple(faults))


def _line(run: Run, fold: FoldName) -> RunLine:
    folder = run.fold_folder(fold)
    log, score = folder / "log.csv", _score(run, fold)
    rows = _rows(log, score.name) if log.is_file() else []
    finished = "done" if run.is_finished(fold) else "stopped"
    state = "training" if is_locked(folder) else finished
    scores = [value for row in rows if not math.isnan(value := row[score.name])]
    pick = max if score.higher_is_better else min
    # Imported weights have no log and only one checkpoint.
    files = [log] if rows else [run.checkpoint(fold, name) for name in CHECKPOINTS]
    stamp = max(path.stat().st_mtime for path in files if path.is_file())
    return RunLine(
        run=run.root,
        fold=fold,
        task=run.recipe.task,
        network=run.recipe.network.name,
        state=state,
        epoch=int(rows[-1]["epoch"]) if rows else 0,
        epochs=run.recipe.training.epochs,
        score_name=score.name if rows else "",
        score=pick(scores) if scores else None,
        updated=datetime.datetime.fromtimestamp(stamp).isoformat(" ", "minutes"),
    )


def _score(run: Run, fold: FoldName) -> ScoreRecord:
    """What chooses the best epoch: as run.json says, or, for runs of 0.1.0, the task."""
    if (known := run.recorded(fold).get("score")) is not None:
        return ScoreRecord(**known)
    return ScoreRecord(name=run.task.score_name, higher_is_better=run.task.higher_is_better)


def _rows(log: Path, score: str) -> list[dict[str, float]]:
    """Epoch and score of each row of log.csv; NaN for an empty cell."""
    headers, rows = read_csv(log)
    columns = ("epoch", score)
    if missing := [name for name in columns if name not in headers]:
        raise ModelError(f"{log}: {missing[0]}: no such column in {', '.join(headers)}. Restore the file.")
    try:
        return [{name: float(row[name] or "nan") for name in columns} for row in rows]
    except ValueError as error:
        raise ModelError(f"{log}: expected numbers ({error}). Restore the file.") from error
