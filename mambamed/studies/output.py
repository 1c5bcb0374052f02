"""The files of a study: study.json, tables, curves, report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from mambamed.documents.study import Budget, Study, StudyRecord, StudyRun
from mambamed.errors import DatasetError
from mambamed.io.atomic import write_bytes, write_text
from mambamed.io.tables import read_csv, write_csv
from mambamed.recipe import Recipe
from mambamed.report.curves import Curve, curves_png
from mambamed.report.page import document, faults_html, picture_html, section, settings_html, table_html
from mambamed.report.tables import Table, write_table
from mambamed.run.provenance import provenance
from mambamed.studies.plan import StudyCell
from mambamed.studies.results import DatasetResults, ScoredCell
from mambamed.studies.tables import result_table, structure_tables, test_table

RECORD, REPORT = "study.json", "report.html"


def write_study(
    output: Path,
    study: Study,
    recipes: Mapping[str, Mapping[str, Recipe]],
    results: Sequence[DatasetResults],
    scored: Sequence[ScoredCell],
    runs: Sequence[StudyRun],
    faults: Sequence[str],
) -> tuple[list[Table], list[Path]]:
    """Write all files; study.json is last.

    Args:
        recipes: dataset -> name of a row -> its recipe.
        scored: the finished runs.
        runs: all runs, with what they took.
        faults: runs without results, a line each.

    Returns:
        The tables to be printed, and the paths of all files.
    """
    written: list[Path] = []
    printed, sections = [], [faults_html("Runs without results", faults)]
    for found in results:
        own = recipes[found.dataset]
        whole = result_table(found, own, [run for run in runs if run.dataset == found.dataset], study.level)
        tests = test_table(found, study.level)
        singles = structure_tables(found, own)
        written += write_table(output / f"results_{found.dataset}", whole)
        written += write_table(output / f"tests_{found.dataset}", tests)
        for number, table in enumerate(singles, start=1):
            written += write_table(output / f"structures_{found.dataset}_{number}", table)
        tables = [whole, *singles, *([tests] if tests.rows else [])]
        further = test_table(found, study.level, whole=False)
        printed += [whole, *([tests] if tests.rows else [])]
        sections += [section(table.title, table_html(table, captioned=False)) for table in tables]
        if further.rows:
            written += write_table(output / f"tests_structures_{found.dataset}", further)
            title = f"Tests of single structures on {found.dataset}"
            sections.append(section(title, table_html(further, captioned=False)))
        cells = [each.cell for each in scored if each.cell.trained.dataset == found.dataset]
        path, png = output / f"curves_{found.dataset}.png", _curves(found.dataset, cells, study.budget)
        write_bytes(path, png)
        written.append(path)
        picture = picture_html(png, f"learning curves on {found.dataset}")
        note = '<p class="note">Score of validation patches: the mean over the runs, and their range.</p>'
        sections.append(
            section(f"Learning curves on {found.dataset}", f'<figure class="curves">{picture}</figure>{note}')
        )
    written += _write_rows(output, results, scored, runs)
    sections.append(section("Runs", table_html(_runs_table(runs), captioned=False)))
    sections.append(section("Settings", settings_html(_settings(study))))
    title = study.name or output.resolve().name
    lead = f"{len(scored)} of {len(runs)} runs are finished. Data, recipes and settings are listed below."
    write_text(output / REPORT, document(title, lead, sections))
    record = StudyRecord(
        study=study,
        runs=tuple(runs),
        scores=tuple(score for found in results for score in found.scores),
        differences=tuple(test for found in results for test in found.differences),
    )
    record.write(output / RECORD)
    return printed, [*written, output / REPORT, output / RECORD]


def _write_rows(
    output: Path, results: Sequence[DatasetResults], scored: Sequence[ScoredCell], runs: Sequence[StudyRun]
) -> list[Path]:
    """scores.csv: one row per recipe, seed, structure and metric; cases.csv: also per case."""
    paths = [output / name for name in ("scores.csv", "cases.csv", "runs.csv")]
    headers = ["dataset", "recipe", "seed", "structure", "metric", "mean"]
    rows = [
        [score.dataset, score.recipe, seed, score.region, score.metric, mean]
        for found in results
        for score in found.scores
        for seed, mean in score.seeds.items()
    ]
    write_csv(paths[0], headers, rows)
    values = []
    for each in scored:
        trained, evaluated = each.cell.trained, each.evaluated
        for (unit, region, metric), value in evaluated.values.items():
            case, subject = evaluated.cases[unit], evaluated.subjects[unit]
            values.append(
                [trained.dataset, trained.name, each.cell.seed, case, subject, region, metric, value]
            )
    write_csv(paths[1], [*headers[:3], "case", "subject", *headers[3:5], "value"], values)
    table = _runs_table(runs)
    write_csv(paths[2], table.headers, table.rows)
    return paths


def _runs_table(runs: Sequence[StudyRun]) -> Table:
    headers = ["recipe", "dataset", "seed", "folds", "state", "hours", "device", "GiB", "steps", "command"]
    rows = []
    for run in runs:
        hours = "-" if run.hours is None else f"{'' if run.complete else '>'}{run.hours:.3f}"
        memory = "-" if run.peak_gib is None else f"{run.peak_gib:.2f}"
        steps = "-" if run.steps is None else str(run.steps)
        state = "done" if run.finished else "not finished"
        folds = ", ".join(map(str, run.folds))
        names = [run.recipe, run.dataset, str(run.seed), folds, state]
        rows.append([*names, hours, run.device or "-", memory, steps, run.command])
    return Table("Runs", headers, rows)


def _settings(study: Study) -> dict[str, object]:
    facts = provenance()
    datasets = (f"{name}: {d.prepared}, scored on {d.part} cases" for name, d in study.datasets.items())
    return {
        "budget": study.budget.title if study.budget else "as the recipes say",
        "datasets": list(datasets),
        "folds": study.folds if isinstance(study.folds, str) else list(study.folds),
        "settings of all": [f"{key}={value}" for key, value in study.set.items()] or "none",
        "platform of this report": facts["platform"],
        "versions": [f"{name} {version}" for name, version in facts["versions"].items()],
    }


def _curves(dataset: str, cells: Sequence[StudyCell], budget: Budget | None) -> bytes:
    """The curves of all runs, over what their budget limits."""
    unit, seconds = budget.clock if budget else ("", 0.0)
    curves: dict[str, list[Curve]] = {}
    name = "score"
    for cell in cells:
        for fold in cell.folds:
            try:
                name, curve = learning_curve(cell.root / f"fold_{fold}" / "log.csv", seconds)
            except (DatasetError, ValueError, LookupError):
                continue  # a picture without this run is better than none
            curves.setdefault(cell.trained.name, []).append(curve)
    return curves_png(curves, f"{name} of validation patches", dataset, along=unit or "step")


def learning_curve(log: Path, unit_seconds: float = 0.0) -> tuple[str, Curve]:
    """The name of the score of validation patches, and its curve at the ends of all epochs.

    Args:
        log: log.csv of a fold.
        unit_seconds: draw it over the time of the training in this unit, by the clock of its limit (default:
            over the steps).

    Raises:
        DatasetError, ValueError, LookupError: the file is missing or has faults.
    """
    headers, rows = read_csv(log)
    score = headers[headers.index("validation_loss") + 1]
    if unit_seconds:
        places = [*accumulate(float(row["seconds"]) / unit_seconds for row in rows)]
    else:
        places = [float(row["step"]) for row in rows]
    return score, [(x, float(row[score] or "nan")) for x, row in zip(places, rows, strict=True)]
