"""From STUDY.yaml to runs: every recipe with its settings on every dataset, and their commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mambamed.documents.study import TWIN, Budget, Study
from mambamed.errors import DatasetError, RecipeError
from mambamed.networks import default_of, options_of
from mambamed.preparation.store import PreparedDataset, check_prepared
from mambamed.recipe import Recipe, load_recipe
from mambamed.recipe.document import value_text
from mambamed.tasks.base import task_class
from mambamed.terminal import command_line

_MIXER = "network.mixer"


@dataclass(frozen=True)
class Trained:
    """A recipe on a dataset: a row of a table.

    Attributes:
        name: of the row.
        words: the arguments of `train` that name the recipe and its settings.
        init_from: dataset and row whose weights it starts from.
    """

    dataset: str
    name: str
    recipe: Recipe
    words: tuple[str, ...]
    init_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyCell:
    """A recipe trained on a dataset with one seed.

    Attributes:
        folds: the folds that are trained.
        runs: folder of all runs of the study.
    """

    trained: Trained
    seed: int
    folds: tuple[int, ...]
    prepared: Path
    runs: Path
    part: str

    @property
    def name(self) -> str:
        """Unique in the study, e.g. "hippocampus.nnmamba.seed_0"."""
        return f"{self.trained.dataset}.{self.trained.name}.seed_{self.seed}"

    @property
    def root(self) -> Path:
        """Its run folder."""
        return self.runs / self.trained.dataset / self.trained.name / f"seed_{self.seed}"

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluation of the test part."""
        return self.root.parent / f"seed_{self.seed}_test"

    @property
    def predictions(self) -> Path:
        """Predictions of the test part."""
        ending = Path(task_class(self.trained.recipe.task).output).suffix
        return self.root.parent / f"seed_{self.seed}_predictions{ending}"

    def settings(self, budget: Budget | None) -> list[str]:
        """The arguments of `train` apart from folders, fold and device."""
        limit = budget.words if budget else ()
        return [*self.trained.words, "--set", f"training.seed={self.seed}", *limit]


def trained_rows(study: Study) -> list[Trained]:
    """Every recipe on each of its datasets, twins after their recipe; all recipes are checked.

    Raises:
        RecipeError: faults of recipes and settings, a line each.
    """
    rows: list[Trained] = []
    twins: list[tuple[str, str]] = []
    faults: list[str] = []
    for dataset in study.datasets:
        for name, wanted in study.recipes.items():
            if wanted.datasets is not None and dataset not in wanted.datasets:
                continue
            file = wanted.recipe.replace("{dataset}", dataset)
            settings = {**study.set, **study.datasets[dataset].set, **wanted.set}
            try:
                row = _row(dataset, name, file, settings, study, wanted.init_from)
                rows.append(row)
                twin = study.twins if wanted.twin is None else wanted.twin
                if not twin:
                    continue
                if has_mixer(row.recipe):
                    settings |= {_MIXER: "none", **({"paper": {}} if row.recipe.paper else {})}
                    twins.append((dataset, f"{name}{TWIN}"))
                    rows.append(_row(dataset, f"{name}{TWIN}", file, settings, study, wanted.init_from))
                elif wanted.twin:
                    faults.append(
                        f"recipes.{name}.twin: network {row.recipe.network.name} has no mixer. Remove it."
                    )
            except RecipeError as error:
                faults += [f"recipes.{name}: {line}" for line in str(error).split("\n")]
    names = [(row.dataset, row.name) for row in rows]
    rows = [_from_twin(row, twins) if (row.dataset, row.name) in twins else row for row in rows]
    faults += [
        f"recipes: two rows are called {name}. Rename one."
        for _, name in set(names)
        if names.count((_, name)) > 1
    ]
    if faults:
        raise RecipeError("\n".join(dict.fromkeys(faults)))
    return rows


def _from_twin(row: Trained, twins: Sequence[tuple[str, str]]) -> Trained:
    """A twin that starts from the twin of its source, if there is one: from weights without the mixer."""
    if len(row.init_from) != 2:
        return row
    dataset, name = row.init_from
    twin = (dataset, f"{name}{TWIN}")
    return replace(row, init_from=twin) if twin in twins else row


def has_mixer(recipe: Recipe) -> bool:
    """Whether the network of a recipe has a mixer that is in use."""
    network = recipe.network
    known = "mixer" in options_of(network.name)
    return known and network.options.get("mixer", default_of(network.name, "mixer")) != "none"


def _row(
    dataset: str, name: str, file: str, settings: Mapping[str, Any], study: Study, init_from: str | None
) -> Trained:
    texts = [f"{key}={value_text(value)}" for key, value in settings.items()]
    recipe = load_recipe(file, texts)
    if study.budget and study.budget.steps:
        texts += steps_settings(recipe, study.budget.steps)
        recipe = load_recipe(file, texts)
    words = (file, *(word for text in texts for word in ("--set", text)))
    return Trained(dataset, name, recipe, words, tuple(init_from.split("/")) if init_from else ())


def steps_settings(recipe: Recipe, steps: int) -> list[str]:
    """The settings with which a recipe takes this number of steps, in epochs of about the recipe's length.

    >>> steps_settings(load_recipe("phantom_nnmamba"), 1000)
    ['training.epochs=50', 'training.steps_per_epoch=20']
    """
    epochs = max(1, round(steps / recipe.training.steps_per_epoch))
    while steps % epochs:
        epochs -= 1
    return [f"training.epochs={epochs}", f"training.steps_per_epoch={steps // epochs}"]


def seeds_of(study: Study) -> list[int]:
    """The seeds, without repetitions."""
    return list(range(study.seeds)) if isinstance(study.seeds, int) else list(dict.fromkeys(study.seeds))


def cells_of(study: Study, rows: Sequence[Trained], output: Path) -> list[StudyCell]:
    """All runs: recipe by recipe within a seed, so that an interrupted study has whole seeds.

    Raises:
        DatasetError: a dataset is not prepared.
        RecipeError: it has no such fold, or no test part.
    """
    folds = {name: _folds(study, name) for name in study.datasets}
    return [
        StudyCell(
            row,
            seed,
            folds[row.dataset],
            Path(study.datasets[row.dataset].prepared),
            output / "runs",
            study.datasets[row.dataset].part,
        )
        for seed in seeds_of(study)
        for row in rows
    ]


def _folds(study: Study, name: str) -> tuple[int, ...]:
    wanted = study.datasets[name]
    check_prepared(Path(wanted.prepared))
    splits = PreparedDataset.open(Path(wanted.prepared)).splits
    chosen = tuple(range(len(splits)) if study.folds == "all" else dict.fromkeys(study.folds))
    if unknown := [fold for fold in chosen if fold >= len(splits)]:
        raise RecipeError(
            f"folds: {unknown[0]}: {wanted.prepared} has {len(splits)} "
            f"fold{'s' * (len(splits) > 1)}, counted from 0. Correct the number."
        )
    for fold in chosen:
        if not splits[fold].get(wanted.part):
            hint = (
                "Prepare it with --split or --test-cases." if wanted.part == "test" else "Prepare it again."
            )
            raise DatasetError(f"{wanted.prepared}: fold {fold} has no {wanted.part} cases. {hint}")
    return chosen


def training_commands(
    cell: StudyCell, budget: Budget | None, options: Sequence[str]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Fold and arguments of each training of a run."""
    for fold in cell.folds:
        place = ("-d", str(cell.prepared), "-o", str(cell.root), "-f", str(fold))
        source = cell.trained.init_from
        start = ("--init-from", str(cell.runs.joinpath(*source, f"seed_{cell.seed}"))) if source else ()
        yield fold, ("train", *cell.settings(budget), *place, *start, "--resume", *options)


def shown_command(cell: StudyCell, budget: Budget | None) -> str:
    """The command of the first fold, without its folders."""
    return command_line("train", *cell.settings(budget), "-f", cell.folds[0])
