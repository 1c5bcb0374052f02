"""`extend`: train a run for more epochs than its recipe specified."""

from __future__ import annotations

from pathlib import Path

from mambamed.errors import RecipeError
from mambamed.progress import Progress
from mambamed.run.folder import Run
from mambamed.training.limit import TimeLimit
from mambamed.training.training import TrainSummary, train


def extend(
    run_folder: Path,
    epochs: int,
    *,
    fold: int | str = "all",
    prepared: Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    max_hours: float | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train a run to a new number of epochs in all; its learning rate follows the longer schedule.

    The number is that of the whole run, so that the same command may be given again after a kill.

    Args:
        run_folder: what `train` wrote.
        epochs: in all; at least as many as the run's recipe says.
        fold: a trained fold, or "all" that are trained.
        prepared: the prepared dataset; where it was when the run was trained, if not given.
        device, precision, max_hours, progress: as in `train`.

    Raises:
        RecipeError: fewer epochs than the run has.
        ModelError: no trained fold, or the fold is not trained.
    """
    run = Run.open(run_folder)
    settings = run.recipe.training
    if epochs < settings.epochs:
        raise RecipeError(
            f"{run_folder}: --epochs {epochs} is less than the run's {settings.epochs} epochs. Increase it."
        )
    folds = run.chosen_folds(str(fold))
    data = prepared or Path(run.recorded(folds[0]).get("prepared", run.recipe.dataset.prepared or ""))
    recipe = run.recipe.model_copy(update={"training": settings.model_copy(update={"epochs": epochs})})
    return train(
        recipe,
        prepared=data,
        output=run_folder,
        fold=folds,
        resume=True,
        extend=True,
        device=device,
        precision=precision,
        limit=TimeLimit.of(max_hours),
        progress=progress,
    )
