"""`train`: from a recipe and a prepared dataset to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from mambamed.documents.splits import NO_FOLD, FoldName
from mambamed.errors import RecipeError
from mambamed.io.lock import is_locked, reading
from mambamed.numerals import is_whole
from mambamed.preparation.options import parse_bytes
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress, Silence
from mambamed.recipe import Recipe
from mambamed.run.device import keep_freed_memory
from mambamed.run.export import open_model
from mambamed.run.folder import Run, check_writing, create_run, planned_run, writing
from mambamed.run.workplace import Workplace, choose_workplace
from mambamed.tasks.sides import mirroring_lines
from mambamed.terminal import command_line
from mambamed.training.commands import predict_command, resume_command
from mambamed.training.costs import check_time
from mambamed.training.deterministic import deterministic as made_deterministic
from mambamed.training.dry_run import DryRun, shortage_named
from mambamed.training.fit import device_memory, fit_recipe
from mambamed.training.imagined import ImaginedDataset
from mambamed.training.limit import TimeLimit, clock_of
from mambamed.training.measured import measured_step
from mambamed.training.needs import check_needs
from mambamed.training.ranks import GRADIENT_WAIT, check_shared_folder, join_ranks
from mambamed.training.session import FoldSummary, Session, TrainOptions, already_trained
from mambamed.training.trackers import check_trackers


@dataclass(frozen=True)
class TrainSummary:
    """Result of `train`."""

    run: Path  # the run folder
    folds: tuple[FoldSummary, ...]
    dry_run: DryRun | None  # the cost of one step, if only that was requested
    faults: tuple[str, ...]  # validation cases that could not be scored
    next_command: str


def train(
    recipe: Recipe,
    *,
    prepared: Path | None = None,
    output: Path | None = None,
    fold: FoldName | Sequence[FoldName] = 0,
    resume: bool = False,
    extend: bool = False,
    init_from: Path | None = None,
    init_strict: bool = False,
    device: str = "auto",
    precision: str | None = None,
    deterministic: bool = False,
    limit: TimeLimit | None = None,
    fit: str | None = None,
    dry_run: bool = False,
    log: Sequence[str] = (),
    notes: Sequence[str] = (),
    measured: bool = False,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train the network of a recipe, and validate it on whole volumes; the arguments are as in `api.train`.

    `fold` may also be several folds; with `extend`, the epochs of the recipe and the run may differ. `notes`
    are the reasons for the values of the recipe, which are logged and written into the run's recipe.yaml;
    with `measured`, `limit` is known to suffice for a step and the validation.
    On another machine, or with another number of threads, results differ by rounding; with `deterministic`, a
    resumed run equals an uninterrupted one on the same machine bit by bit.

    Raises:
        RecipeError: recipe, options and dataset do not fit together.
        ModelError: a checkpoint cannot be used.
        RunError: the folder is in use, the disk or memory full, or the loss stays non-finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with the state saved.
    """
    progress = progress or Silence()
    if deterministic and limit is not None:
        raise RecipeError(
            f"--deterministic: a schedule fitted to the clock differs each time. Remove {limit.option}."
        )
    check_trackers(log)
    keep_freed_memory()
    named = prepared or (Path(recipe.dataset.prepared) if recipe.dataset.prepared else None)
    if dry_run and prepared is None and (named is None or not named.exists()):
        return _dry_run_without_data(recipe, output, device, precision, progress)
    if named is None:
        raise RecipeError(f"recipe {recipe.name}: dataset.prepared is missing. Add it or use -d PREPARED.")
    with ExitStack() as held:
        held.enter_context(reading(named, init_from))
        dataset = PreparedDataset.open(named)
        root = output or Path("runs") / recipe.name
        run = planned_run(recipe, dataset.plan, dataset.manifest, root)
        folds = chosen_folds(fold, len(dataset.splits), dataset.root)
        ranks, device = join_ranks(device)
        kind = precision or recipe.training.precision
        place, reasons = choose_workplace(device, kind, search=not deterministic)
        if ranks.world > 1:
            patches = run.plan.batch_size * run.recipe.training.accumulate
            reasons["processes"] = (
                f"processes {ranks.world}, {ranks.beside} of them on this machine, {patches} patches per "
                f"step each; a step waits at most {GRADIENT_WAIT.seconds // 60} minutes for a process"
            )
            progress = progress if ranks.leads else Silence()
        if limit is not None and limit.cpu and (place.device.type != "cpu" or ranks.world > 1):
            where = f"{ranks.world} processes" if place.device.type == "cpu" else place.device.type
            raise RecipeError(
                f"--max-cpu-minutes: measures one process on a CPU, and this training runs on {where}. Use "
                "--max-hours, or --device cpu."
            )
        if fit is not None:
            # The free memory of the processes may differ.
            if ranks.leads:
                recipe = _fitted(recipe, dataset, run, fit, place, progress)
            recipe = ranks.agree(recipe)
            run = planned_run(recipe, dataset.plan, dataset.manifest, root)
        if not notes or run.recipe != recipe:  # else the notes say it
            notes = (*notes, *mirroring_lines(recipe, run.recipe, run.manifest))
        if dry_run:
            for line in (*notes, *reasons.values()):
                progress.say(line)
            cost, _ = measured_step(run, dataset, folds[0], place, progress)
            return TrainSummary(root, (), cost, (), command_line("train", recipe.name, "-o", root))
        fresh = [each for each in folds if not (resume and run.checkpoint(each, "last").is_file())]
        if init_from is not None:
            open_model(init_from).chosen_folds("all")
        if ranks.leads:
            check_writing(root, folds, [dataset.root])
            for number in () if resume else folds:
                if run.checkpoint(number, "last").is_file() and not is_locked(run.fold_folder(number)):
                    raise already_trained(run, number)  # before anything is written
            if fresh:
                check_needs(run, fresh, place)
        if limit is not None and fresh and not measured and ranks.world == 1:
            _, pace = measured_step(run, dataset, folds[0], place, Silence(), clock_of(limit.cpu))
            check_time(pace, limit.seconds / len(folds), limit.option, limit.unit_seconds)
        if ranks.leads:
            held.enter_context(writing(root, folds, [dataset.root]))
            run = create_run(run, lambda line: reasons.update(recipe=line), extend, folds, notes)
        ranks.wait()
        check_shared_folder(ranks, root)
        progress.say(f"run: {root}")
        options = TrainOptions(resume, init_from, init_strict, deterministic, tuple(log), tuple(notes))
        summaries, faults = [], []
        for place_in_line, index in enumerate(folds):
            own = None if limit is None else limit.part(len(folds) - place_in_line)
            with made_deterministic(deterministic), shortage_named(run):
                session = Session(run, dataset, index, place, progress, ranks)
                summary, fold_faults = session.train(options, own, reasons)
            summaries.append(summary)
            faults += fold_faults
            options = replace(options, notes=())
            if summary.stopped:
                break
    following = predict_command(recipe.task, [root], root.name)
    if summaries[-1].stopped and extend:
        following = command_line("extend", root, "--epochs", recipe.training.epochs)
    elif summaries[-1].stopped:
        following = resume_command(root, dataset.root, "all" if fold == "all" else folds[0])
    return TrainSummary(root, tuple(summaries), None, tuple(faults), following)


def _fitted(
    recipe: Recipe, dataset: PreparedDataset, run: Run, fit: str, place: Workplace, progress: Progress
) -> Recipe:
    """The recipe with patch and batch size for this memory; those of the run if it exists already."""
    if (run.root / "recipe.yaml").is_file():
        known = Run.open(run.root).recipe
        sizes = {"patch_size": known.training.patch_size, "batch_size": known.training.batch_size}
        training = recipe.training.model_copy(update=sizes)
        return recipe.model_copy(update={"training": training, "network": known.network})
    budget = device_memory(place.device) if fit == "auto" else parse_bytes(fit, "--fit")
    return fit_recipe(recipe, dataset.plan, run.manifest, budget, place, progress)


def _dry_run_without_data(
    recipe: Recipe, output: Path | None, device: str, precision: str | None, progress: Progress
) -> TrainSummary:
    """The cost of one step of a recipe without its dataset."""
    dataset = ImaginedDataset(recipe)
    root = output or Path("runs") / recipe.name
    run = planned_run(recipe, dataset.plan, dataset.manifest, root)
    place, reasons = choose_workplace(device, precision or recipe.training.precision, search=True)
    missing = recipe.dataset.prepared or "dataset.prepared is not given"
    progress.say(
        f"no prepared dataset ({missing}): the step is taken on random numbers of the recipe's shapes"
    )
    for line in (*mirroring_lines(recipe, run.recipe, run.manifest), *reasons.values()):
        progress.say(line)
    cost, _ = measured_step(run, cast(PreparedDataset, dataset), 0, place, progress)
    prepared = recipe.dataset.prepared or "PREPARED"
    following = command_line("prepare", "SOURCE", "-o", prepared, "--recipe", recipe.name)
    return TrainSummary(root, (), cost, (), following)


def chosen_folds(fold: FoldName | Sequence[FoldName], count: int, dataset: Path) -> list[FoldName]:
    """The folds for "all", "none", "2" or 2, or a list of these; RecipeError if there is no such fold."""
    if fold == NO_FOLD:
        return [NO_FOLD]
    if fold == "all":
        return list(range(count))
    if not isinstance(fold, (int, str)):
        return [index for each in fold for index in chosen_folds(each, count, dataset)]
    if not is_whole(str(fold)) or int(fold) >= count:
        folds = "fold 0" if count == 1 else f"folds 0 to {count - 1}"
        raise RecipeError(f"--fold {fold}: {dataset} has {folds}. Choose one of them, all or none.")
    return [int(fold)]
