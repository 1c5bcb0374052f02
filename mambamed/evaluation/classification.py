"""Score tables of class probabilities; several tables are several seeds.

Each table keeps its own threshold; nothing is chosen on the cases that are scored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.converters.accounting import other_files
from mambamed.documents.agreement import spelling
from mambamed.documents.evaluation import ClassificationSettings, ClassificationSummary, ClassRow
from mambamed.errors import CaseError, DatasetError
from mambamed.evaluation.class_report import Answer, answers_of, case_rows, class_columns, write_report
from mambamed.evaluation.options import EvaluateOptions
from mambamed.evaluation.pairing import repeated_people
from mambamed.evaluation.read_back import ALL, Evaluated, Question, read_case_rows, read_number
from mambamed.evaluation.reference_classes import ReferenceClasses, read_reference_classes
from mambamed.evaluation.result import Evaluation
from mambamed.evaluation.scorer import Scorer
from mambamed.io.probabilities import Probabilities, names_probabilities, read_probabilities
from mambamed.io.tables import is_notes, write_csv
from mambamed.metrics.classification import (
    BINARY_METRICS,
    MULTICLASS_METRICS,
    BinaryScores,
    ClassMetric,
    MulticlassScores,
    auc,
    score_binary,
    score_multiclass,
)
from mambamed.metrics.statistics import bootstrap_interval
from mambamed.report.tables import Table, shown, shown_interval

_NOWHERE = (math.nan, math.nan)


@dataclass(frozen=True)
class RunScores:
    """The scores of one table of probabilities, at its own threshold."""

    name: str
    scores: BinaryScores | MulticlassScores
    # metric -> confidence interval, by subject
    intervals: Mapping[str, tuple[float, float]]
    missing: Mapping[str, str]  # reference cases that are not in the table -> their class
    class_auc: Mapping[str, float]  # class -> AUC against the rest


@dataclass(frozen=True, kw_only=True)
class ClassEvaluation(Evaluation):
    """The evaluation of one or several tables of probabilities."""

    runs: tuple[RunScores, ...]  # one per table
    # one row per metric; for more than two classes also the AUC of each class against the rest
    summaries: tuple[ClassRow, ...]
    classes: tuple[str, ...]  # in the order of the probabilities; of two, the second is positive


def evaluate_probabilities(
    predictions: Path,
    references: Path,
    *,
    classes: Sequence[str] | None = None,
    level: float = 0.95,
    cases: Collection[str] | None = None,
    only_predicted: bool = False,
    output: Path | None = None,
    report: bool = False,
    table: str | None = None,
    paper: Mapping[str, float | str] | None = None,
) -> ClassEvaluation:
    """Score tables of class probabilities.

    A case without a prediction is a fault, and wrong in the metrics that count right answers; metrics of
    probabilities are over the cases that have some.

    Args:
        predictions: a table that `classify` wrote, or a folder of them (one per seed, for the same cases).
        references: a table with the class of each case, or a prepared dataset.
        classes: those of the recipe, with which the tables must agree, also in their order.
        level: confidence level of the intervals.
        cases: cases to score (default: all of the reference).
        only_predicted: ignore cases that are in no table.
        output: folder for `cases.csv`, `summary.csv` and `summary.json`.
        report: also write `report.html`.
        table: "classification": also make a table like those of papers: ACC, SEN, SPE, PRE, F1 and AUC in
            per cent, mean ± SD over seeds.
        paper: a recipe's `paper` section, as a row of that table.

    Raises DatasetError: nothing to compare, tables of other classes, or a reference that cannot be read.
    """
    tables = {path.stem: read_probabilities(path) for path in probability_files(predictions)}
    stated, classes = classes, next(iter(tables.values())).classes
    if stated is not None and list(map(spelling, stated)) != list(map(spelling, classes)):
        raise DatasetError(
            f"{predictions}: classes or their order disagree: {', '.join(classes)} (the table) | "
            f"{', '.join(stated)} (the recipe). Use the recipe of the model."
        )
    for name, each in tables.items():
        if each.classes != classes:
            raise DatasetError(
                f"{predictions}: {name} has the classes {', '.join(each.classes)}, another "
                f"{', '.join(classes)}. Evaluate tables of the same classes together."
            )
    predicted = {case for each in tables.values() for case in each.cases}
    reference = read_reference_classes(references, classes, predicted)
    asked = set(reference.class_of if cases is None else cases) & set(reference.class_of)
    wanted = asked & predicted if only_predicted else asked
    faults = _faults(tables, reference, wanted, predictions)
    runs = [_score(name, each, reference, wanted, level) for name, each in tables.items()]
    from mambamed import __version__

    others = other_files((predictions, references), probability_files(predictions))
    settings = {
        "classes": classes,
        "positive": classes[1] if len(classes) == 2 else None,
        "thresholds": {name: each.threshold for name, each in tables.items()},
        "calibrated": {name: each.calibrated for name, each in tables.items()},
        "reference": reference.source,
        "predictions": str(predictions),
        "references": str(references),
        "confidence": level,
        "mambamed": __version__,
        "other_files": others,
    }
    notes = [*_notes(tables, classes, reference, runs), *others]
    evaluation = ClassEvaluation(
        table=_table(runs, classes, notes, level),
        runs=tuple(runs),
        summaries=tuple(_summaries(runs, classes)),
        classes=classes,
        settings=settings,
        output=output,
        paper_table=_paper_table(runs, classes, predictions, paper) if table == "classification" else None,
        faults=faults,
    )
    if output is None:
        return evaluation
    answers = answers_of(tables, reference, wanted)
    path = output / "report.html"
    if report:
        lead = f"{predictions} against {references}"
        told = [str(fault) for fault in faults]
        write_report(path, predictions.stem, lead, evaluation.table, answers, classes, settings, told)
    return _written(evaluation, answers, [path] if report else [])


def probability_files(predictions: Path) -> list[Path]:
    """The given .csv file, or those of a folder. Raises DatasetError: there are none."""
    if predictions.is_file():
        return [predictions]
    found = _tables(predictions)
    if not found:
        raise DatasetError(f"{predictions}: no tables of probabilities. Choose the output of classify.")
    return found


def holds_probabilities(predictions: Path) -> bool:
    """Whether a path is a table of class probabilities, or a folder whose first table is one."""
    if predictions.is_file():
        return names_probabilities(predictions)
    return any(map(names_probabilities, _tables(predictions)[:1]))


def _tables(folder: Path) -> list[Path]:
    """The tables in a folder, without hidden files and notes."""
    return sorted(p for p in folder.glob("*.csv") if not p.name.startswith(".") and not is_notes(p))


def _score(
    name: str, table: Probabilities, reference: ReferenceClasses, wanted: set[str], level: float
) -> RunScores:
    rows = [row for row, case in enumerate(table.cases) if case in wanted]
    if not rows:
        raise DatasetError(f"{name}: no case in common with {reference.source}. Check the case ids of both.")
    truth = np.array([table.classes.index(reference.class_of[table.cases[row]]) for row in rows])
    subjects = [reference.subject_of[table.cases[row]] for row in rows]
    values = table.values[rows]
    right = np.array([table.labels[row] == reference.class_of[table.cases[row]] for row in rows])
    missing = {case: reference.class_of[case] for case in sorted(wanted - set(table.cases))}
    absent = [list(missing.values()).count(name) for name in table.classes]
    # With the cases that have no answer, which is wrong:
    every = np.append(truth, [table.classes.index(name) for name in missing.values()]).astype(int)
    right = np.append(right, np.zeros(len(missing), bool))
    subjects += [reference.subject_of[case] for case in missing]
    intervals = {"accuracy": bootstrap_interval(right, subjects, level)}
    if len(table.classes) == 2:
        threshold = 0.5 if table.threshold is None else table.threshold
        people = subjects[: len(truth)]
        scores = score_binary(truth, values[:, 1], threshold, level, (absent[0], absent[1]), people)
        intervals["auc"] = scores.auc_interval
        for metric, part in (("sensitivity", every == 1), ("specificity", every == 0)):
            if part.any():
                people = [subject for subject, inside in zip(subjects, part, strict=True) if inside]
                intervals[metric] = bootstrap_interval(right[part], people, level)
    else:
        scores = score_multiclass(truth, values, absent)
    areas = {each: auc(truth == k, values[:, k]) for k, each in enumerate(table.classes)}
    return RunScores(name, scores, intervals, missing, areas)


def _faults(
    tables: Mapping[str, Probabilities], reference: ReferenceClasses, wanted: set[str], predictions: Path
) -> tuple[CaseError, ...]:
    lines = []
    for name, table in tables.items():
        there = set(table.cases)
        lines += [
            f"{case}: has no row in {name}.csv and counts as wrong. Classify it."
            for case in sorted(wanted - there)
        ]
        lines += [
            f"{predictions}: {case}: {reference.why_not.get(case, f'is not in {reference.source}')}"
            for case in sorted(there - set(reference.class_of) - set(reference.others))
        ]
    return tuple(CaseError(line) for line in dict.fromkeys(lines))


def _notes(
    tables: Mapping[str, Probabilities],
    classes: Sequence[str],
    reference: ReferenceClasses,
    runs: Sequence[RunScores],
) -> list[str]:
    notes = [f"classes: {', '.join(classes)}, from {reference.source}"]
    if len(classes) == 2:
        at = ", ".join(dict.fromkeys(shown(t.threshold or 0.0) for t in tables.values()))
        method = _method(reference)
        notes.append(f"positive: {classes[1]}, from probability {at} on; AUC's interval: {method}")
    notes += [reference.note] if reference.note else []
    if people := repeated_people(reference.subject_of[case] for case in reference.class_of):
        notes.append(people)
    predicted = {case for table in tables.values() for case in table.cases}
    others = sorted({reference.others[case] for case in predicted & set(reference.others)})
    if others:
        count = len(predicted & set(reference.others))
        notes.append(f"{count} cases of another class ({', '.join(others)}) were not asked about: left out")
    uncalibrated = [name for name, table in tables.items() if not table.calibrated]
    if uncalibrated:
        notes.append(f"not calibrated: {', '.join(uncalibrated)}")
    notes += [
        f"{run.name}: {len(run.missing)} of {run.scores.cases} cases have no prediction and count as wrong; "
        "AUC, average precision, Brier score and calibration error are over the others"
        for run in runs
        if run.missing
    ]
    return notes


def _method(reference: ReferenceClasses) -> str:
    people = {reference.subject_of[case] for case in reference.class_of}
    repeated = len(people) < len(reference.class_of)
    return "by subject (Obuchowski 1997)" if repeated else "DeLong"


def _metrics_of(classes: Sequence[str]) -> dict[str, ClassMetric]:
    return BINARY_METRICS if len(classes) == 2 else MULTICLASS_METRICS


def _table(runs: Sequence[RunScores], classes: Sequence[str], notes: Sequence[str], level: float) -> Table:
    """One table: value and interval; several: mean ± SD, then each table."""
    rows = []
    for metric, line in _metrics_of(classes).items():
        values = [run.scores.values[metric] for run in runs]
        if len(runs) == 1:
            interval = shown_interval(runs[0].intervals.get(metric, _NOWHERE))
            rows.append([line.title, shown(values[0]), interval])
        else:
            mean, sd = _mean_and_sd(values)
            rows.append([line.title, f"{shown(mean)} ± {shown(sd)}", *map(shown, values)])
    cases = runs[0].scores.cases
    if len(runs) == 1:
        return Table(f"{cases} cases", ["metric", runs[0].name, f"{level:.0%} CI"], rows, notes)
    headers = ["metric", f"mean ± SD of {len(runs)}", *(run.name for run in runs)]
    return Table(f"{cases} cases, {len(runs)} tables", headers, rows, notes)


def _paper_table(
    runs: Sequence[RunScores],
    classes: Sequence[str],
    predictions: Path,
    paper: Mapping[str, float | str] | None,
) -> Table:
    """One row per method, in per cent, mean ± SD over seeds."""
    columns = {metric: line.paper for metric, line in _metrics_of(classes).items() if line.paper}
    ours = [predictions.resolve().stem]
    for metric in columns:
        mean, sd = _mean_and_sd([100 * run.scores.values[metric] for run in runs])
        ours.append(_in_paper_form(mean, sd))
    rows = [ours]
    if paper:
        theirs = [f"paper ({paper.get('source', 'its own numbers')})"]
        for heading in columns.values():
            mean, sd = paper.get(heading, math.nan), paper.get(f"{heading} SD", math.nan)
            theirs.append(_in_paper_form(float(mean), float(sd)))
        rows.append(theirs)
    cases, count = runs[0].scores.cases, len(runs)
    title = f"{classes[0]} against {classes[1]}" if len(classes) == 2 else ", ".join(classes)
    seeds = f"mean ± SD over {count} runs" if count > 1 else "one run"
    return Table(title, ["method", *columns.values()], rows, [f"per cent; {cases} cases; {seeds}"])


def _in_paper_form(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """SD with n - 1; NaN if a run has no value or there is only one run."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def _written(
    evaluation: ClassEvaluation, answers: Sequence[Answer], reports: Sequence[Path]
) -> ClassEvaluation:
    """Write the tables, and summary.json last."""
    output = evaluation.output
    assert output is not None
    written = [*evaluation.write_paper_table("classification"), *reports]
    paths = [output / name for name in ("cases.csv", "summary.csv", "summary.json")]
    write_csv(paths[0], *case_rows(answers, evaluation.classes))
    headers = ["name", "metric", "mean", "sd", "ci_low", "ci_high", "runs"]
    count, lines = len(evaluation.runs), evaluation.summaries
    write_csv(paths[1], headers, [[s.name, s.metric, s.mean, s.sd, *s.interval, count] for s in lines])
    ClassificationSummary(
        settings=ClassificationSettings(**evaluation.settings),
        summaries=evaluation.summaries,
        runs={run.name: _plain(run.scores) | {"missing": len(run.missing)} for run in evaluation.runs},
        faults=tuple(str(fault) for fault in evaluation.faults),
    ).write(paths[2])
    return replace(evaluation, written=(*written, *paths))


def _summaries(runs: Sequence[RunScores], classes: Sequence[str]) -> list[ClassRow]:
    """One row per metric: means over runs; an interval if there is one run."""
    two = len(classes) == 2
    name = classes[1] if two else ALL
    rows = []
    for metric in _metrics_of(classes):
        values = [run.scores.values[metric] for run in runs]
        interval = runs[0].intervals.get(metric, _NOWHERE) if len(runs) == 1 else _NOWHERE
        rows.append(_row(name, metric, values, interval))
    if not two:
        rows += [_row(each, "auc", [run.class_auc[each] for run in runs], _NOWHERE) for each in classes]
    return rows


def _row(name: str, metric: str, values: Sequence[float], interval: tuple[float, float]) -> ClassRow:
    mean, sd = _mean_and_sd(values)
    return ClassRow(name=name, metric=metric, mean=mean, sd=sd, interval=interval)


def _plain(scores: BinaryScores | MulticlassScores) -> dict[str, Any]:
    plain: dict[str, Any] = {
        key: tuple(map(tuple, value.tolist())) if isinstance(value, np.ndarray) else value
        for key, value in asdict(scores).items()
    }
    return plain | plain.pop("values")


def _as_requested(predictions: Path, references: Path, options: EvaluateOptions) -> ClassEvaluation:
    chosen = options.chosen("level", "cases", "only_predicted", "output", "report", "table", "paper")
    asked = options.recipe.dataset.classes if options.recipe else None
    return evaluate_probabilities(predictions, references, classes=asked, **chosen)


def _read_back(folder: Path, name: str, summary: ClassificationSummary) -> Evaluated:
    """Every metric that single cases have; means over the tables."""
    classes = summary.settings.classes
    columns = class_columns(classes).values()
    rows = read_case_rows(folder, ["case", "run", "reference", "right", "subject", *columns])
    metrics = {key: line for key, line in _metrics_of(classes).items() if line.per_case is not None}
    seen: dict[tuple[str, str], list[float]] = {}
    runs: dict[str, dict[str, float]] = {}
    for line, row in enumerate(rows, start=2):
        case, chances = row["case"], [read_number(folder, line, row[each]) for each in columns]
        correct = read_number(folder, line, row["right"])
        if row["reference"] not in classes:
            raise DatasetError(
                f"{folder / 'cases.csv'}:{line}: reference {row['reference']!r} is not one of "
                f"{', '.join(classes)}. Run evaluate again."
            )
        truth = classes.index(row["reference"])
        for key, metric in metrics.items():
            assert metric.per_case is not None
            seen.setdefault((case, key), []).append(metric.per_case(chances, truth, correct))
        if len(classes) == 2 and not math.isnan(chances[1]):
            runs.setdefault(row["run"], {})[case] = chances[1]
    subjects = {row["case"]: row["subject"] for row in rows}
    truths = {row["case"]: row["reference"] for row in rows}
    questions = tuple(Question(ALL, key, metric.higher_is_better) for key, metric in metrics.items())
    values = {(case, ALL, key): sum(each) / len(each) for (case, key), each in seen.items()}
    rules = f"classes {', '.join(classes)}, each model at its own threshold"
    return Evaluated(
        name, "classification", questions, values, subjects, {case: case for case in subjects}, rules,
        truth=truths, classes=classes, probabilities=tuple(runs.values()),
    )  # fmt: skip


SCORER = Scorer(
    contents="class probabilities",
    recognizes=holds_probabilities,
    options=frozenset(),
    table="classification",
    evaluate=_as_requested,
    read_back=_read_back,
)
