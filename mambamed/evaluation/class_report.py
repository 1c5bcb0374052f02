"""The answers of an evaluation of classes, case by case, and its `report.html`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.evaluation.reference_classes import ReferenceClasses
from mambamed.io.probabilities import Probabilities
from mambamed.metrics.classification import auc, roc_curve
from mambamed.report.page import Distribution, Page, write_page
from mambamed.report.tables import Table, shown

_NONE = "no prediction"


@dataclass(frozen=True)
class Answer:
    """What one table says about one case."""

    case: str
    run: str  # name of the table
    truth: str
    label: str | None  # predicted class; None if the table lacks the case
    chances: tuple[float, ...]  # probability of each class; empty if the table lacks the case
    subject: str


def answers_of(
    tables: Mapping[str, Probabilities], reference: ReferenceClasses, wanted: Collection[str]
) -> list[Answer]:
    """The answers of every table to the wanted cases; cases that it lacks are last."""
    answers = []
    for run, table in tables.items():
        labels = dict(zip(table.cases, table.labels, strict=True))
        chances = dict(zip(table.cases, map(tuple, table.values.tolist()), strict=True))
        order = [case for case in table.cases if case in wanted] + sorted(set(wanted) - set(labels))
        for case in order:
            truth, subject = reference.class_of[case], reference.subject_of[case]
            answers.append(Answer(case, run, truth, labels.get(case), chances.get(case, ()), subject))
    return answers


_COLUMNS = ("case", "run", "reference", "label", "right")
_LAST_COLUMN = "subject"


def class_columns(classes: Sequence[str]) -> dict[str, str]:
    """Class -> the column of `cases.csv` with its probabilities.

    A column is named like its class, unless a class is named like another column; then all have a prefix.

    >>> class_columns(["left", "none"]), class_columns(["left", "right"])
    ({'left': 'left', 'none': 'none'}, {'left': 'p_left', 'right': 'p_right'})
    """
    prefix = "p_" if {*_COLUMNS, _LAST_COLUMN} & set(classes) else ""
    return {name: prefix + name for name in classes}


def case_rows(answers: Sequence[Answer], classes: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """`cases.csv`: one row per table and case; cells without a value are None."""
    headers = [*_COLUMNS, *class_columns(classes).values(), _LAST_COLUMN]
    rows = [
        [
            a.case,
            a.run,
            a.truth,
            a.label,
            int(a.label == a.truth),
            *(a.chances or [None] * len(classes)),
            a.subject,
        ]
        for a in answers
    ]
    return headers, rows


def write_report(
    path: Path,
    name: str,
    lead: str,
    summary: Table,
    answers: Sequence[Answer],
    classes: Sequence[str],
    settings: Mapping[str, Any],
    faults: Sequence[str],
) -> None:
    """Write `report.html`: metrics, ROC curves, confusion matrices, misclassified cases, and all cases."""
    runs = {run: [a for a in answers if a.run == run] for run in dict.fromkeys(a.run for a in answers)}
    true_class = {
        truth: [(a.case, a.chances[classes.index(truth)]) for a in answers if a.truth == truth and a.chances]
        for truth in classes
    }
    page = Page(
        title=f"Classification: {name}",
        lead=lead,
        summary=summary,
        distributions=[Distribution("Probability of the true class", "", True, true_class)],
        worst=[],
        case_headers=case_rows([], classes)[0],
        case_rows=case_rows(answers, classes)[1],
        settings=settings,
        faults=faults,
        roc=_roc(runs, classes),
        tables=[
            *(_confusion(run, each, classes, len(runs) > 1) for run, each in runs.items()),
            _wrong(answers, classes),
        ],
    )
    write_page(path, page)


def _roc(runs: Mapping[str, Sequence[Answer]], classes: Sequence[str]) -> dict[str, Any]:
    """Of two classes that of the positive one, else that of each class against the rest."""
    curves = {}
    for run, answers in runs.items():
        answered = [a for a in answers if a.chances]
        for name in classes[1:] if len(classes) == 2 else classes:
            truth = [a.truth == name for a in answered]
            score = [a.chances[classes.index(name)] for a in answered]
            false, true = roc_curve(truth, score)
            if len(false):
                of = f"{run}: {name}" if len(runs) > 1 else name
                curves[f"{of}, AUC {shown(auc(truth, score))}"] = (false.tolist(), true.tolist())
    return curves


def _confusion(run: str, answers: Sequence[Answer], classes: Sequence[str], named: bool) -> Table:
    predicted = [*classes, *([None] if any(a.label is None for a in answers) else [])]
    rows = []
    for truth in classes:
        labels = [a.label for a in answers if a.truth == truth]
        counts = [labels.count(each) for each in predicted]
        right = f"{labels.count(truth) / len(labels):.1%}" if labels else "-"
        rows.append([f"reference {truth}", *map(str, counts), str(len(labels)), right])
    headers = ["cases", *(f"predicted {each}" if each else _NONE for each in predicted), "all", "right"]
    return Table(f"Confusion matrix of {run}" if named else "Confusion matrix", headers, rows)


def _wrong(answers: Sequence[Answer], classes: Sequence[str]) -> Table:
    """The misclassified cases, the least probable true class first; cases without a prediction are last."""
    wrong = [a for a in answers if a.label != a.truth]
    wrong.sort(key=lambda a: (not a.chances, a.chances[classes.index(a.truth)] if a.chances else 0.0, a.case))
    headers = ["case", "table", "reference", "predicted", "probability of the reference", "of the predicted"]
    rows = [
        [
            a.case,
            a.run,
            a.truth,
            a.label,
            *(shown(a.chances[classes.index(each)]) for each in (a.truth, a.label)),
        ]
        if a.label
        else [a.case, a.run, a.truth, _NONE, "-", "-"]
        for a in wrong
    ]
    return Table(f"Misclassified cases: {len(wrong)} of {len(answers)}", headers, rows)
