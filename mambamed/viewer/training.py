"""The progress of a run, read from its files at each call; nothing of the training itself is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mambamed.errors import MambamedError
from mambamed.io.lock import is_locked
from mambamed.io.tables import read_csv
from mambamed.numerals import is_whole
from mambamed.run.folder import PATCHES, Run
from mambamed.viewer.answers import plain
from mambamed.viewer.evaluated import is_evaluation

_RECENT = 10  # epochs from which the time left is estimated
_LINES = 12  # of train.log
_NOT_SCORES = {"epoch", "loss", "validation_loss", "learning_rate", "seconds", "step"}


def training_of(root: Path) -> Mapping[str, Any]:
    """State of each fold: the columns of log.csv, the epochs planned, and the seconds that are left.

    A limit of time changes the plan while it trains.

    A fold whose log is being replaced, or is damaged, has a `fault` and no curves.
    """
    run = Run.open(root)
    return {"folds": [_fold(run, folder) for folder in _folds(root)]}


def patches_of(root: Path, number: int) -> bytes | None:
    """The picture of the last validation patches of a fold, counted as in `training_of`; None without one."""
    for folder in _folds(root)[number : number + 1]:
        with suppress(OSError):
            return (folder / PATCHES).read_bytes()
    return None


def _folds(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("fold_*") if path.is_dir())


def _fold(run: Run, folder: Path) -> dict[str, Any]:
    state = "training" if is_locked(folder) else "not running"
    epochs = _planned_epochs(run, folder)
    entry: dict[str, Any] = {
        "name": folder.name, "state": state, "curves": {}, "score": "", "fault": None,
        "epochs": math.ceil(epochs), "validated": is_evaluation(folder) and state != "training",
    }  # fmt: skip
    log = folder / "log.csv"
    if (folder / "summary.json").is_file() and state != "training":
        entry["state"] = "done"
    entry["patches"] = (folder / PATCHES).is_file()
    entry["lines"] = _last_lines(folder / "train.log")
    if not log.is_file():
        return {**entry, "epoch": 0, "seconds_left": None}
    try:
        headers, rows = read_csv(log)
        curves = {name: [float(row[name] or "nan") for row in rows] for name in headers}
    except (MambamedError, ValueError) as error:
        return {**entry, "epoch": 0, "seconds_left": None, "fault": str(error)}
    scores = [name for name in headers if name not in _NOT_SCORES]
    epoch = int(curves["epoch"][-1]) if curves.get("epoch") else 0
    recent = curves.get("seconds", [])[-_RECENT:]
    left = max(epochs - epoch, 0) * sum(recent) / len(recent) if recent else None
    return {
        **entry,
        "epoch": epoch,
        "score": scores[0] if scores else "",
        "seconds_left": plain(left) if state == "training" else None,
        "curves": {name: [plain(value) for value in values] for name, values in curves.items()},
    }


def _planned_epochs(run: Run, folder: Path) -> float:
    """Epochs until the end of the schedule, which may lie within an epoch."""
    settings = run.recipe.training
    number = folder.name.removeprefix("fold_")
    steps = run.recorded(int(number) if is_whole(number) else "none").get("steps")
    return settings.epochs if steps is None else steps / settings.steps_per_epoch


def _last_lines(log: Path) -> list[str]:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        return file.read().decode("utf-8", "replace").splitlines()[-_LINES:]
    return []
