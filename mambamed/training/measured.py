"""The cost of a recipe on this device: some steps are measured, the rest follows from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mambamed.documents.splits import FoldName
from mambamed.io.lock import reading
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress, Silence
from mambamed.recipe import Recipe
from mambamed.run.cost import RecipeCost, recipe_cost
from mambamed.run.folder import Run, planned_run
from mambamed.run.workplace import Workplace, choose_workplace
from mambamed.training.costs import cost_of
from mambamed.training.dry_run import DryRun, shortage_named, take_one_step, within_memory
from mambamed.training.schedule import Pace
from mambamed.training.session import Session


def measured_recipe(recipe: Recipe, data: Path, device: str, progress: Progress | None) -> RecipeCost:
    """The cost of a recipe on a prepared dataset and a device.

    Raises:
        RecipeError, RunError: recipe and dataset do not fit together, or memory is insufficient.
    """
    with reading(data):
        dataset = PreparedDataset.open(data)
        run = planned_run(recipe, dataset.plan, dataset.manifest, Path(recipe.name))
        counted = recipe_cost(recipe, run)
        place, _ = choose_workplace(device, recipe.training.precision, search=True)
        step, _ = measured_step(run, dataset, 0, place, progress or Silence())
    return replace(counted, training=step.cost)


def measured_step(
    run: Run,
    dataset: PreparedDataset,
    fold: FoldName,
    place: Workplace,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[DryRun, Pace]:
    """The cost of a step, measured on this device, and of the whole training of a fold.

    Args:
        clock: with which steps are measured.

    Raises:
        RecipeError, RunError: memory is insufficient.
    """
    tried, lack = within_memory(run, place)
    if lack:
        progress.say(lack)
    with shortage_named(tried):
        session = Session(tried, dataset, fold, place, progress)
        state, batch = session.fresh_state(), session.first_batch()
        step = take_one_step(state, session.task, batch, place, tried, clock)
    training = run.recipe.training
    whole = step.seconds * run.plan.batch_size / tried.plan.batch_size
    pace = Session(run, dataset, fold, place, progress).pace(whole)
    cost = cost_of(pace, training.steps, training.steps_per_epoch, place.device.type, step.peak_gib)
    return replace(step, cost=cost), pace
