"""`train --seeds`: the same training with several seeds, and the spread of its scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.errors import RecipeError
from mambamed.io.lock import waiting_lock
from mambamed.io.ownership import Output
from mambamed.io.tables import write_csv
from mambamed.numerals import is_whole
from mambamed.recipe import Recipe
from mambamed.training.commands import predict_command, resume_command
from mambamed.training.limit import TimeLimit
from mambamed.training.ranks import join_ranks
from mambamed.training.training import TrainSummary, train

TABLE = "seeds.csv"


@dataclass(frozen=True)
class SeedScore:
    """A structure's score over the seeds."""

    name: str  # of the structure, or "mean" of all of them
    each: tuple[float, ...]  # one per seed, the mean over its folds; NaN if it was not scored
    mean: float
    sd: float  # with n - 1; NaN for a single seed


@dataclass(frozen=True)
class SeedsSummary:
    """Result of `train_seeds`."""

    root: Path  # folder of the run folders `seed_0`, ...
    seeds: tuple[int, ...]
    runs: tuple[TrainSummary, ...]  # one per seed
    score_name: str  # e.g. "dice"
    score_title: str  # the same in reports, e.g. "Dice"
    scores: tuple[SeedScore, ...]  # empty if nothing was scored
    faults: tuple[str, ...]  # validation cases that could not be scored
    next_command: str


def train_seeds(
    recipe: Recipe,
    seeds: str,
    *,
    output: Path | None = None,
    limit: TimeLimit | None = None,
    **options: Any,
) -> SeedsSummary:
    """Train a recipe once per seed, each in a separate run folder, and compare.

    Weights, patches and augmentation differ between seeds; the folds do not.

    Args:
        recipe: its `training.seed` is replaced.
        seeds: how many, e.g. "3" for 0, 1, 2; or which, e.g. "4,7". Else RecipeError, also if the output
            folder is a run.
        output: folder of the run folders (default: `runs/<recipe>`).
        limit: for all of them.
        options: those of `train`.
    """
    numbers, root = chosen_seeds(seeds), output or Path("runs") / recipe.name
    place = folder_of_seeds(root)
    leads = join_ranks(options.get("device", "auto"))[0].leads
    if leads:
        place.check([TABLE])
        with waiting_lock(root):
            place.begin()
    runs: list[TrainSummary] = []
    for seed in numbers:
        share = None if limit is None else limit.part(len(numbers) - len(runs))
        training = recipe.training.model_copy(update={"seed": seed})
        own = recipe.model_copy(update={"training": training})
        runs.append(train(own, output=root / f"seed_{seed}", limit=share, **options))
        if runs[-1].folds[-1].stopped:
            break
    following = predict_command(recipe.task, [run.run for run in runs], root.name)
    if runs[-1].folds[-1].stopped:
        prepared = options.get("prepared") or Path(recipe.dataset.prepared or "PREPARED")
        following = resume_command(runs[-1].run, prepared, options.get("fold", 0), seeds)
    return seeds_summary(root, numbers[: len(runs)], runs, following, leads)


def folder_of_seeds(root: Path) -> Output:
    """The output folder for the runs of several seeds; RecipeError if it is a run."""
    if (root / "recipe.yaml").is_file():
        raise RecipeError(f"{root}: is a run, but --seeds writes a folder of runs. Use another -o.")
    return Output(root, "folder of runs, one per seed", older=_files_of_version_0_1)


def seeds_summary(
    root: Path, seeds: Sequence[int], runs: list[TrainSummary], following: str, writes: bool = True
) -> SeedsSummary:
    """Compare the runs of several seeds, and write their table."""
    scores = score_seeds(runs)
    if scores and writes:
        headers = ["name", "mean", "sd", *(f"seed_{seed}" for seed in seeds)]
        write_csv(root / TABLE, headers, [[s.name, s.mean, s.sd, *s.each] for s in scores])
    return SeedsSummary(
        root=root,
        seeds=tuple(seeds),
        runs=tuple(runs),
        score_name=runs[0].folds[0].score_name,
        score_title=runs[0].folds[0].score_title,
        scores=scores,
        faults=tuple(fault for run in runs for fault in run.faults),
        next_command=following,
    )


def _files_of_version_0_1(root: Path) -> list[str]:
    """What mambamed 0.1.0, which kept no list of its files, wrote for several seeds."""
    return [TABLE, *(f"{path.parent.name}/{path.name}" for path in root.glob("seed_*/recipe.yaml"))]


def chosen_seeds(seeds: str) -> list[int]:
    """The seeds that "3" or "4,7" means.

    >>> chosen_seeds("3"), chosen_seeds("4,7")
    ([0, 1, 2], [4, 7])
    """
    parts = [part.strip() for part in seeds.split(",") if part.strip()]
    if not parts or not all(map(is_whole, parts)) or seeds.strip() == "0":
        raise RecipeError(f"--seeds {seeds}: give the number of seeds, e.g. 3, or the seeds, e.g. 4,7")
    if "," in seeds:
        return list(dict.fromkeys(int(part) for part in parts))
    return list(range(int(parts[0])))


def score_seeds(runs: list[TrainSummary]) -> tuple[SeedScore, ...]:
    """Scores over the seeds, one per structure, and their mean; empty if no fold was scored."""
    tables = [[fold.scores for fold in run.folds if fold.scores] for run in runs]
    names = list(dict.fromkeys(name for folds in tables for scores in folds for name in scores))
    if not names:
        return ()
    rows = [tuple(_mean([scores.get(n, math.nan) for scores in folds]) for folds in tables) for n in names]
    rows.append(tuple(_mean(column) for column in zip(*rows, strict=True)))
    return tuple(_over_seeds(n, each) for n, each in zip([*names, "mean"], rows, strict=True))


def _over_seeds(name: str, each: tuple[float, ...]) -> SeedScore:
    known = [score for score in each if not math.isnan(score)]
    sd = statistics.stdev(known) if len(known) > 1 else math.nan
    return SeedScore(name, each, _mean(known), sd)


def _mean(values: list[float] | tuple[float, ...]) -> float:
    """Mean of the values that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
