"""`train --on`: one job per fold and seed, each of which is resumed where it was stopped.

The jobs are plain jobs of the batch system, not tasks of Dask workers: a training needs its own GPUs for
days, saves its own state, and must outlive the process that submitted it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mambamed.cluster.commands import Command, Outcome, run_commands
from mambamed.cluster.destination import Destination
from mambamed.cluster.site import asked_by
from mambamed.documents.splits import FoldName
from mambamed.errors import MambamedError, RecipeError, RunError
from mambamed.io.lock import reading, waiting_lock
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run, check_writing
from mambamed.training.commands import predict_command
from mambamed.training.launch import words_of
from mambamed.training.seeds import SeedsSummary, chosen_seeds, folder_of_seeds, seeds_summary
from mambamed.training.session import FoldSummary, already_trained
from mambamed.training.state import Counters
from mambamed.training.training import TrainSummary, chosen_folds
from mambamed.training.validate import read_scores

_NOT_OF_A_JOB = ("on", "jobs", "job", "seeds", "fold", "output", "resume", "progress", "data", "gpus")


def train_on(
    recipe: Recipe, given: Mapping[str, Any], place: Destination, progress: Progress | None
) -> TrainSummary | SeedsSummary:
    """Train every fold and seed as a job, and summarize what has ended.

    Args:
        recipe: as loaded from `given["recipe"]`.
        given: the arguments of `api.train`.
        place: where the jobs run.
        progress: optional callback that receives progress updates.

    Returns:
        The summary of what is trained; its faults name the jobs that failed.

    Raises:
        RecipeError: an option that cannot be used, or a fold that is trained already.
        RunError: no job has ended well.
    """
    if given["dry_run"]:
        raise RecipeError("--dry-run: measures this device. Remove --on, or run it in a job.")
    dataset, folds = _data(recipe, given)
    root, runs = _runs(recipe, given)
    if given["seeds"] is not None:
        output = folder_of_seeds(root)
        with waiting_lock(root):
            output.begin()
    jobs = root.with_name(f"{root.name}.jobs")
    commands = []
    for seed, run in runs.items():
        check_writing(run, folds, [dataset.root])
        for fold in folds:
            command = _command(given, given["data"] or recipe.dataset.prepared or "", run, fold, seed)
            if not given["resume"] and not (jobs / f"{command.name}.json").is_file():
                _check_new(run, fold)
            commands.append(command)
    if (asked := place.count("gpus")) and 1 < given["gpus"] != asked:
        raise RecipeError(f"--gpus {given['gpus']}: each job has {asked} (--job gpus={asked}). Keep one.")
    if place.is_batch and given["gpus"] > 1 and "gpus" not in asked_by(place):
        place = replace(place, resources={**place.resources, "gpus": str(given["gpus"])})
    outcomes = run_commands(commands, place, jobs, progress)
    faults = tuple(_fault(outcome) for outcome in outcomes if outcome.state != "done" or outcome.fault)
    if not any(outcome.state == "done" for outcome in outcomes):
        raise RunError("\n".join(faults))
    return _summary(recipe, given, folds, faults)


def trained_summary(recipe: Recipe, given: Mapping[str, Any]) -> TrainSummary | SeedsSummary:
    """What other processes have trained, from the run folders; nothing is trained or written.

    Args:
        recipe: of the runs.
        given: the arguments of `api.train`.

    Raises:
        RunError: they have left no checkpoint.
    """
    return _summary(recipe, given, _data(recipe, given)[1], ())


def _data(recipe: Recipe, given: Mapping[str, Any]) -> tuple[PreparedDataset, Sequence[FoldName]]:
    """The dataset, and the folds to train."""
    named = given["data"] or recipe.dataset.prepared
    if named is None:
        raise RecipeError(f"recipe {recipe.name}: dataset.prepared is missing. Add it or use -d PREPARED.")
    with reading(Path(named)):
        dataset = PreparedDataset.open(Path(named))
    return dataset, chosen_folds(given["fold"], len(dataset.splits), dataset.root)


def _runs(recipe: Recipe, given: Mapping[str, Any]) -> tuple[Path, dict[int | None, Path]]:
    """The output, and the run folder of each seed."""
    root = Path(given["output"] or Path("runs") / recipe.name)
    if given["seeds"] is None:
        return root, {None: root}
    return root, {seed: root / f"seed_{seed}" for seed in chosen_seeds(given["seeds"])}


def _summary(
    recipe: Recipe, given: Mapping[str, Any], folds: Sequence[FoldName], faults: tuple[str, ...]
) -> TrainSummary | SeedsSummary:
    """Of the runs, as far as they have checkpoints."""
    root, runs = _runs(recipe, given)
    following = predict_command(recipe.task, [*runs.values()], root.name)
    found = []
    for run in runs.values():
        summaries = tuple(summary for fold in folds if (summary := _fold_summary(run, fold)) is not None)
        if summaries:
            found.append(TrainSummary(run, summaries, None, (), following))
    if not found:
        raise RunError(f"{root}: the training has left no checkpoint. Run the same command again.")
    if given["seeds"] is None:
        return replace(found[0], faults=faults)
    there = [seed for seed, run in runs.items() if any(each.run == run for each in found)]
    return replace(seeds_summary(root, [s for s in there if s is not None], found, following), faults=faults)


def _command(
    given: Mapping[str, Any], data: Path | str, run: Path, fold: FoldName, seed: int | None
) -> Command:
    """The command of one fold and seed."""
    options = {key: value for key, value in given.items() if key not in _NOT_OF_A_JOB}
    changes = [*(given["set"] or ()), *([] if seed is None else [f"training.seed={seed}"])]
    options["set"] = changes or None
    words = words_of({**options, "data": data, "output": run, "fold": fold})
    words += ["--gpus", str(given["gpus"])] if given["gpus"] > 1 else []
    words += ["--resume"] if given["resume"] else []
    name = f"fold_{fold}" if seed is None else f"seed_{seed}_fold_{fold}"
    return Command(name, words, ("--resume",), proof=(run / f"fold_{fold}" / "checkpoint_last.safetensors",))


def _check_new(root: Path, fold: FoldName) -> None:
    """Raise RecipeError if the fold was trained by another command."""
    if (root / f"fold_{fold}" / "checkpoint_last.safetensors").is_file():
        raise already_trained(Run.open(root), fold)


def _fault(outcome: Outcome) -> str:
    fact = outcome.fault or "was stopped"
    return f"{outcome.name}: {outcome.state}: {fact} (see {outcome.log})"


def _fold_summary(root: Path, fold: FoldName) -> FoldSummary | None:
    """What a job has left; None without a checkpoint."""
    try:
        run = Run.open(root)
        facts = read_checkpoint(run.checkpoint(fold, "last"), parts=()).facts
    except (MambamedError, OSError):
        return None
    counters = Counters(**facts.get("counters", {}))
    scored = read_scores(run, fold)
    return FoldSummary(
        fold=fold,
        folder=run.fold_folder(fold),
        steps=counters.step,
        planned_steps=counters.steps,
        seconds=round(counters.seconds, 1),
        score_name=run.task.main_metric,
        score_title=run.task.score_title,
        patch_score=math.nan if counters.best_score is None else counters.best_score,
        scores=scored.scores if scored else {},
        stopped=None if run.is_finished(fold) else "not finished",
    )
