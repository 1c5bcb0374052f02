"""What the runs of a study will take, and what they took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambamed.documents.splits import FoldName
from mambamed.documents.study import Study
from mambamed.progress import Progress
from mambamed.report.tables import Table
from mambamed.run.folder import Run
from mambamed.run.training_cost import duration
from mambamed.studies.plan import StudyCell
from mambamed.training.measured import measured_recipe


@dataclass(frozen=True)
class Spent:
    """What a run took.

    Attributes:
        hours: GPU-hours, or CPU-hours (of all threads) on a CPU; NaN if nothing was recorded.
        complete: whether every session was recorded; one that was killed is not.
        peak_gib: NaN if unknown.
        steps: planned ones, per fold.
    """

    hours: float
    complete: bool
    device: str
    peak_gib: float
    parameters: int | None
    steps: int | None


def spent(root: Path, folds: Sequence[FoldName]) -> Spent:
    """The cost of a run, from its run.json.

    Raises:
        ModelError: not a run, or one with faults.
    """
    run = Run.open(root)
    facts = [run.recorded(fold) for fold in folds]
    sessions = [session for fold in facts for session in fold.get("sessions", ())]
    costs = [session["cost"] for session in sessions if session.get("cost")]
    seconds = [
        cost["cpu_seconds"] if cost["device"] == "cpu" else cost["seconds"] * cost["processes"]
        for cost in costs
    ]
    return Spent(
        hours=sum(seconds) / 3600 if costs else math.nan,
        complete=len(costs) == len(sessions),
        device=", ".join(dict.fromkeys(cost["device"] for cost in costs)),
        peak_gib=max((cost["peak_gib"] for cost in costs if cost.get("peak_gib")), default=math.nan),
        parameters=facts[0].get("parameters"),
        steps=facts[0].get("steps"),
    )


def cost_table(
    study: Study, cells: Sequence[StudyCell], done: int, device: str, jobs: int, progress: Progress
) -> Table:
    """The number of runs and the time that they will take on this machine, by recipe.

    Args:
        done: number of trainings (runs times folds) that are finished already.
        device: where steps are measured if the budget is not a time.
        jobs: number of runs at a time.
    """
    limit = study.budget.limit_hours if study.budget else None
    rows, total, trainings = [], 0.0, 0
    kinds = list(dict.fromkeys((cell.trained.dataset, cell.trained.name) for cell in cells))
    progress.start("measuring", len(kinds), "recipes")
    for dataset, name in kinds:
        own = [cell for cell in cells if (cell.trained.dataset, cell.trained.name) == (dataset, name)]
        count = sum(len(cell.folds) for cell in own)
        hours, memory = (limit, "-") if limit else _measured(own[0], device, progress)
        assert hours is not None
        progress.advance(1, recipe=name)
        trainings, total = trainings + count, total + count * hours
        steps = own[0].trained.recipe.training.steps
        planned = f"at most {steps}" if limit else str(steps)
        rows.append([dataset, name, str(count), planned, duration(hours), duration(count * hours), memory])
    rows.append(["all", "", str(trainings), "", "", duration(total), ""])
    left = trainings - done
    notes = [
        f"{left} of {trainings} trainings are left; with {jobs} at a time the whole takes about "
        f"{duration(total / max(trainings, 1) * math.ceil(left / jobs))}"
    ]
    if limit:
        kind = "CPU time" if study.budget and study.budget.cpu_minutes else "time"
        notes.append(
            f"each training ends within its budget of {kind}, including the validation of whole volumes"
        )
    else:
        notes.append(
            "measured on this device: one step per recipe, times the number of steps, and validation"
        )
    if any(cell.part == "test" for cell in cells):
        notes.append("the prediction of the test part is not included")
    headers = ["dataset", "recipe", "trainings", "steps", "time each", "time", "GiB"]
    return Table("Trainings of the study", headers, rows, notes)


def _measured(cell: StudyCell, device: str, progress: Progress) -> tuple[float, str]:
    found = measured_recipe(cell.trained.recipe, cell.prepared, device, progress).training
    assert found is not None
    memory = "-" if math.isnan(found.peak_gib) else f"{found.peak_gib:.1f}"
    return found.hours, memory
