"""`study`: trains every run, then collects the results and writes the tables; finished runs are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambamed.cluster.commands import Command, Outcome, run_commands
from mambamed.cluster.destination import Destination
from mambamed.documents.study import Budget, Study, StudyRecord, StudyRun, read_study
from mambamed.errors import MambamedError, RecipeError
from mambamed.io.lock import reading
from mambamed.io.ownership import Output
from mambamed.progress import Progress, Silence
from mambamed.report.tables import Table
from mambamed.run.folder import Run
from mambamed.studies.costs import cost_table, spent
from mambamed.studies.output import RECORD, write_study
from mambamed.studies.plan import StudyCell, Trained, cells_of, shown_command, trained_rows, training_commands
from mambamed.studies.results import DatasetResults, read_cells, results_of
from mambamed.tasks.base import task_class
from mambamed.terminal import command_line

_JOBS = "jobs"


@dataclass(frozen=True)
class StudySummary:
    """The result of `study`.

    Attributes:
        output: folder of the study.
        tables: results and tests of every dataset; of a dry run, its cost.
        finished, runs: number of runs with results, and of all runs.
        faults: runs without results, a line each.
        written: files of the report.
        next_command: what to do next; empty if there is nothing.
    """

    output: Path
    tables: tuple[Table, ...]
    finished: int
    runs: int
    faults: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()
    next_command: str = ""


def run_study(
    file: Path,
    output: Path,
    *,
    device: str = "auto",
    place: Destination = Destination(),  # noqa: B008 - frozen
    dry_run: bool = False,
    report_only: bool = False,
    progress: Progress | None = None,
) -> StudySummary:
    """Run a study, or what is left of it, and write its report.

    Args:
        file: STUDY.yaml, or the name of a shipped study.
        output: its folder. It may hold the same study with fewer datasets, recipes, folds or seeds.
        device: of the trainings.
        place: where the trainings run, and how many at a time.
        dry_run: report the number of trainings and what they take, and write nothing.
        report_only: train nothing, and report what is finished.

    Raises:
        RecipeError: faults of the study, its recipes and settings, a line each; or the folder holds runs of
            other settings.
        DatasetError: a dataset is not prepared, or has no such fold.
    """
    progress = progress or Silence()
    file = find_study(file)
    study = read_study(file)
    study = study if study.name else study.changed(name=file.stem)
    rows = trained_rows(study)
    cells = cells_of(study, rows, output)
    folder = Output(output, "study", [file], edited=("*",))
    folder.check()
    _check_same(output, cells, study.budget)
    if dry_run:
        done = sum(_is_finished(cell, fold) for cell in cells for fold in cell.folds)
        table = cost_table(study, cells, done, device, place.jobs or 1, progress)
        following = command_line("study", file, "-o", output)
        finished = sum(all(_is_finished(cell, fold) for fold in cell.folds) for cell in cells)
        return StudySummary(output, (table,), finished, len(cells), next_command=following)
    with folder.locked(), reading(*{cell.prepared for cell in cells}):
        outcomes: list[Outcome] = []
        if not report_only:
            _record(output, study, cells)
            outcomes = _train(output, study, cells, device, place, progress)
        return _reported(output, study, rows, cells, outcomes, progress)


def find_study(study: Path) -> Path:
    """The file of a path, or of the name of a shipped study.

    Raises:
        RecipeError: there is none.
    """
    if study.is_file():
        return study
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_studies", package.parent / "studies"):
        if (file := folder / f"{study.name.removesuffix('.yaml')}.yaml").is_file() and len(study.parts) < 3:
            return file
    raise RecipeError(f"{study}: no such study. Give a STUDY.yaml, or the name of a shipped study.")


def _check_same(output: Path, cells: Sequence[StudyCell], budget: Budget | None) -> None:
    """Raise RecipeError if a run of the folder was trained by another command."""
    if not (output / RECORD).is_file():
        return
    known = {
        (run.dataset, run.recipe, run.seed): run.command for run in StudyRecord.read(output / RECORD).runs
    }
    for cell in cells:
        before = known.get((cell.trained.dataset, cell.trained.name, cell.seed))
        now = shown_command(cell, budget)
        if before is not None and _without_fold(before) != _without_fold(now):
            raise RecipeError(
                f"{output}: {cell.name} belongs to another study: '{before}' there, '{now}' here. Give "
                "another -o, or rename the recipe in the study."
            )


def _without_fold(command: str) -> str:
    return command.rpartition(" -f ")[0]


def _record(output: Path, study: Study, cells: Sequence[StudyCell]) -> None:
    """Write what the runs are before they begin; runs that only an earlier study had stay listed."""
    path = output / RECORD
    own = [_run_of(cell, study.budget) for cell in cells]
    names = {(run.dataset, run.recipe, run.seed) for run in own}
    known = StudyRecord.read(path).runs if path.is_file() else ()
    others = [run for run in known if (run.dataset, run.recipe, run.seed) not in names]
    StudyRecord(study=study, runs=(*own, *others)).write(path)


def _train(
    output: Path,
    study: Study,
    cells: Sequence[StudyCell],
    device: str,
    place: Destination,
    progress: Progress,
) -> list[Outcome]:
    """Train what is not finished; then predict and evaluate the test parts."""
    options = ("--device", device, "-q")
    outcomes: list[Outcome] = []
    for later in (False, True):  # what starts from the weights of other runs comes after them
        trainings = [
            Command(f"{cell.name}.fold_{fold}", words, proof=(cell.root / f"fold_{fold}" / "summary.json",))
            for cell in cells
            if bool(cell.trained.init_from) == later
            for fold, words in training_commands(cell, study.budget, options)
            if not _is_finished(cell, fold)
        ]
        outcomes += run_commands(trainings, place, output / _JOBS, progress) if trainings else []
    ready = [cell for cell in cells if cell.part == "test" and all(_is_finished(cell, f) for f in cell.folds)]
    for stage in (_prediction, _evaluation):
        commands = [command for cell in ready if (command := stage(cell, device)) is not None]
        outcomes += run_commands(commands, place, output / _JOBS, progress) if commands else []
    return outcomes


def _prediction(cell: StudyCell, device: str) -> Command | None:
    if (cell.evaluation / "summary.json").is_file():
        return None
    words = [task_class(cell.trained.recipe.task).verb, cell.root, cell.prepared, "-o", cell.predictions]
    folds = ",".join(map(str, cell.folds))
    words += ["--part", "test", "--folds", folds, "--device", device, "-q"]
    return Command(f"{cell.name}.predict", tuple(map(str, words)), proof=(cell.predictions,))


def _evaluation(cell: StudyCell, device: str) -> Command | None:
    if (cell.evaluation / "summary.json").is_file() or not cell.predictions.exists():
        return None
    words = ["evaluate", cell.predictions, cell.prepared, "-o", cell.evaluation, "--part", "test", "-q"]
    words += ["--recipe", cell.root / "recipe.yaml"]
    proof = (cell.evaluation / "summary.json",)
    return Command(f"{cell.name}.evaluate", tuple(map(str, words)), proof=proof)


def _reported(
    output: Path,
    study: Study,
    rows: Sequence[Trained],
    cells: Sequence[StudyCell],
    outcomes: Sequence[Outcome],
    progress: Progress,
) -> StudySummary:
    complete = [cell for cell in cells if all(_is_finished(cell, fold) for fold in cell.folds)]
    scored, unread = read_cells(complete)
    known = {outcome.name: outcome for outcome in outcomes}
    faults = [*unread, *(_unfinished(cell, known) for cell in cells if cell not in complete)]
    results: list[DatasetResults] = []
    progress.start("comparing", len(study.datasets), "datasets")
    for dataset in study.datasets:
        own = [each for each in scored if each.cell.trained.dataset == dataset]
        names = [row for row in rows if row.dataset == dataset]
        if own:
            against = study.compare_with
            if against is not None and all(each.cell.trained.name != against for each in own):
                faults.append(
                    f"{dataset}: compare_with: {against} has no finished run there. Every pair is tested."
                )
            try:
                results.append(results_of(dataset, names, own, study.level, study.compare_with))
            except MambamedError as error:
                faults.append(f"{dataset}: {error}")
        progress.advance(1, dataset=dataset)
    runs = [_run_of(cell, study.budget) for cell in cells]
    recipes = {
        dataset: {row.name: row.recipe for row in rows if row.dataset == dataset}
        for dataset in study.datasets
    }
    tables, written = write_study(output, study, recipes, results, scored, runs, faults)
    return StudySummary(output, tuple(tables), len(scored), len(cells), tuple(faults), tuple(written))


def _unfinished(cell: StudyCell, outcomes: dict[str, Outcome]) -> str:
    own = [outcomes.get(f"{cell.name}.fold_{fold}") for fold in cell.folds]
    for outcome in own:
        if outcome is not None and outcome.state != "done":
            return f"{cell.name}: {outcome.state}: {outcome.fault or 'no reason'} (see {outcome.log})"
    return f"{cell.name}: is not finished. Run the same command without --report-only."


def _is_finished(cell: StudyCell, fold: int) -> bool:
    try:
        return Run.open(cell.root).is_finished(fold)
    except MambamedError:
        return False


def _run_of(cell: StudyCell, budget: Budget | None) -> StudyRun:
    finished = all(_is_finished(cell, fold) for fold in cell.folds)
    facts = {"command": shown_command(cell, budget), "folds": cell.folds, "finished": finished}
    try:
        took = spent(cell.root, cell.folds)
        facts |= {"device": took.device, "complete": took.complete}
        facts |= {"parameters": took.parameters, "steps": took.steps}
        facts |= {} if math.isnan(took.hours) else {"hours": took.hours}
        facts |= {} if math.isnan(took.peak_gib) else {"peak_gib": took.peak_gib}
    except MambamedError:
        pass  # it has not begun
    return StudyRun(dataset=cell.trained.dataset, recipe=cell.trained.name, seed=cell.seed, **facts)
