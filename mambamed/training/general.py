"""A general recipe: made for a prepared dataset, and sized for a device, a time and a memory.

The task proposes its keys (`tasks.proposals`); `training.sizing` chooses the width of the network and the
patch by steps that are measured on this device, with the cases of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed import __version__
from mambamed.documents.splits import FoldName
from mambamed.io.atomic import write_text
from mambamed.io.lock import reading
from mambamed.io.ownership import own_file
from mambamed.io.text_files import read_text
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress, Silence
from mambamed.recipe import Choice, Recipe, commented_recipe, overridden, parse_recipe
from mambamed.run.training_cost import TrainingCost
from mambamed.run.workplace import Workplace, choose_workplace
from mambamed.tasks.proposals import proposal_for
from mambamed.terminal import command_line
from mambamed.training.costs import check_time, cost_of
from mambamed.training.ranks import join_ranks
from mambamed.training.seeds import chosen_seeds
from mambamed.training.sizing import Given, Measure, Sizer, available_gib
from mambamed.training.training import chosen_folds


@dataclass(frozen=True)
class GeneralRecipe:
    """A recipe made for a dataset: its keys with the reasons for their values, and its cost."""

    recipe: Recipe
    choices: tuple[Choice, ...]
    cost: TrainingCost

    def notes(self) -> tuple[str, ...]:
        """The choices that have a reason, one line each."""
        return tuple(choice.line() for choice in self.choices if choice.why)


@dataclass(frozen=True)
class NewRecipe:
    """Result of `new_recipe`.

    Attributes:
        text: the recipe as commented YAML.
        notes: the reasons for its values, one line each.
        cost: of its training on this device.
        output: file with the text, or None.
        next_command: trains it.
    """

    text: str
    notes: tuple[str, ...]
    cost: TrainingCost
    output: Path | None
    next_command: str


def new_recipe(
    data: Path,
    output: Path | None = None,
    *,
    network: str | None = None,
    task: str | None = None,
    hours: float | None = None,
    fit: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NewRecipe:
    """Make the general recipe of a prepared dataset, and write it to `output`; see `api.recipes_new`.

    Raises:
        RecipeError: nothing to learn from, too little time or memory, or the file is somebody else's.
    """
    place, _ = choose_workplace(device, "auto", search=True)
    with reading(data):
        dataset = PreparedDataset.open(data)
        asked = {"task": task, "network": {"name": network} if network else {}}
        made = general_recipe(
            dataset, place, asked=asked, hours=hours, option="--hours", fit=fit, progress=progress
        )
    name, recipe = (_name_of(data), []) if output is None else (output.stem, [output])
    limit = [] if hours is None else ["--max-hours", f"{hours:g}"]
    command = command_line("train", *recipe, "-d", data, "-o", Path("runs") / name, *limit)
    header = [
        f"General recipe for {data}, made by mambamed {__version__} for its {len(dataset.case_ids)} cases. "
        "Change what you like.",
        f"  {command}",
        *made.cost.lines(),
        "Each comment gives the reason for the key below it. 'mambamed recipes schema' describes all keys.",
    ]
    text = commented_recipe(header, made.choices)
    if output is not None:
        with own_file(output, inputs=[data], replace=overwrite):
            write_text(output, text)
    return NewRecipe(text, made.notes(), made.cost, output, command)


def recipe_to_train(
    data: Path,
    output: Path | None,
    *,
    fold: FoldName | Sequence[FoldName] = 0,
    seeds: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    precision: str | None = None,
    max_hours: float | None = None,
    fit: str | None = None,
    progress: Progress | None = None,
) -> tuple[Recipe, tuple[str, ...], bool]:
    """The recipe of `train` without RECIPE: that of the run folder if it exists, else the general recipe.

    The arguments are those of `train`.

    Returns:
        The recipe, the reasons for its values, one line each, and whether steps were measured for it, so that
        `max_hours` is known to suffice.
    """
    root = output or Path("runs") / _name_of(data)
    for path in (root / "recipe.yaml", *sorted(root.glob("seed_*/recipe.yaml"))):
        if path.is_file():
            return (
                parse_recipe(read_text(path), str(path), overrides),
                (f"recipe: that of the run, {path}",),
                False,
            )
    ranks, device = join_ranks(device)
    place, _ = choose_workplace(device, precision or "auto", search=True)
    progress = (progress or Silence()) if ranks.leads else Silence()
    made: tuple[Recipe, tuple[str, ...]] | None = None
    if ranks.leads:
        with reading(data):
            dataset = PreparedDataset.open(data)
            trainings = len(chosen_folds(fold, len(dataset.splits), data)) * len(chosen_seeds(seeds or "1"))
            general = general_recipe(
                dataset,
                place,
                asked=overridden(overrides),
                overrides=overrides,
                hours=None if max_hours is None else max_hours / trainings,
                option="--max-hours",
                ends_by_clock=max_hours is not None,
                fit=fit,
                progress=progress,
            )
        made = general.recipe, general.notes()
    made = ranks.agree(made)
    assert made is not None
    return *made, True


def general_recipe(
    dataset: PreparedDataset,
    place: Workplace,
    *,
    asked: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    hours: float | None = None,
    option: str = "--max-hours",
    ends_by_clock: bool = False,
    fit: str | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> GeneralRecipe:
    """Make a recipe for a prepared dataset.

    Args:
        dataset: the dataset.
        place: where it will be trained.
        asked: keys that are given, nested as in a recipe: task, network.name, network.channels,
            training.patch_size and training.batch_size are respected.
        overrides: `key=value` texts that are applied to the recipe.
        hours: for training and validation (default: `CPU_HOURS` or `GPU_HOURS`).
        option: name of that time in messages.
        ends_by_clock: whether `--max-hours` will shorten the schedule, so that the number of steps need not.
        fit: memory, as in `train --fit` (default: what is free).
        measure: `recipe -> (peak GiB, pace)`; default: steps on the device.

    Raises:
        RecipeError: nothing to learn from, or time or memory suffice for no step.
    """
    given = Given.of(asked or {})
    progress = progress or Silence()
    proposal = proposal_for(dataset, given.task)
    maker = Sizer(dataset, place, proposal, given, tuple(overrides), hours, measure)
    progress.say(f"general recipe: measuring steps on {place.device} to choose width and patch")
    size = maker.sized(available_gib(fit, place), fit)
    if hours is not None:
        check_time(size.pace, hours * 3600, option)
    size = maker.widened(size, available_gib(fit, place))
    choices, recipe = maker.finished(size, ends_by_clock)
    steps = min(recipe.training.steps, maker.steps_in(size.pace)) if ends_by_clock else recipe.training.steps
    cost = cost_of(size.pace, steps, recipe.training.steps_per_epoch, place.device.type, size.peak_gib)
    return GeneralRecipe(recipe, tuple(choices), cost)


def _name_of(data: Path) -> str:
    return data.resolve().name
