"""Score landmarks: radial errors in mm, success detection rates, misses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mambamed.converters.accounting import other_files
from mambamed.converters.point_sets import PointSet, holds_points, read_point_set
from mambamed.documents.agreement import spelled_alike
from mambamed.documents.evaluation import LandmarksSummary
from mambamed.errors import CaseError, DatasetError
from mambamed.evaluation.options import EvaluateOptions
from mambamed.evaluation.pairing import repeated_people, subject_of
from mambamed.evaluation.point_output import (
    ABSENT,
    ERROR,
    PointEvaluation,
    landmark_table,
    paper_table,
    written,
)
from mambamed.evaluation.read_back import ALL, Evaluated, Question, read_case_rows, read_number
from mambamed.evaluation.scorer import Scorer
from mambamed.io.points import Points
from mambamed.metrics.points import (
    SDR_DISTANCES_MM,
    PointScores,
    score_points,
    summarize_points,
)
from mambamed.metrics.statistics import bootstrap_interval
from mambamed.schema_errors import named, some_of

_NOT_EXPECTED = ("spurious", ABSENT)


def evaluate_points(
    predictions: Path,
    references: Path,
    *,
    landmarks: Sequence[str] | None = None,
    distances_mm: Sequence[float] = SDR_DISTANCES_MM,
    level: float = 0.95,
    cases: Collection[str] | None = None,
    only_predicted: bool = False,
    output: Path | None = None,
    report: bool = True,
    worst: int = 10,
    table: str | None = None,
    paper: Mapping[str, float | str] | None = None,
) -> PointEvaluation:
    """Score landmarks by their distance to reference positions.

    A landmark that was not found, or whose case has no prediction, is a failure at every distance and is
    excluded from mean errors. One that is absent in the reference is spurious if it was placed. A landmark
    that the reference of a case does not name is not scored.

    Args:
        predictions, references: see `read_point_set`; matched by case and landmark name.
        landmarks: those to score, in the order of the tables (default: all of the reference).
        distances_mm: of the success detection rate.
        level: confidence level of the intervals.
        cases: cases to score (default: those of the reference).
        only_predicted: ignore cases without a prediction.
        output: folder for `cases.csv`, `summary.csv`, `summary.json` and `report.html`.
        report: whether to write report.html.
        worst: number of cases listed as the worst in the report.
        table: "landmarks": also make a table like those of papers, with one column per landmark.
        paper: a recipe's `paper` section, as a row of that table.

    Raises DatasetError: nothing to compare.
    """
    found, truth = read_point_set(predictions), read_point_set(references)
    known = [*truth.points, *truth.faults]
    wanted = sorted(set(known) & set(cases)) if cases is not None else sorted(known)
    if only_predicted:
        wanted = [case for case in wanted if case in found.points]
    if not set(wanted) & {*found.points, *found.faults}:
        ours, theirs = (some_of(sorted(cases), most=3) or "none" for cases in (found.points, known))
        raise DatasetError(
            f"{predictions}: no case in common with {references} (predictions {ours}; references {theirs}). "
            "Name both by case."
        )
    in_cases = dict.fromkeys(name for case in wanted for name in truth.points.get(case, {}))
    known_names = list(truth.landmarks or in_cases)
    found, notes = _spelled_as(found, known_names, truth.source)
    names = _asked(landmarks, known_names, truth.source) if landmarks else known_names

    def chosen(points: Points) -> Points:
        return {name: points[name] for name in names if name in points}

    scores = {
        case: score_points(chosen(truth.points[case]), chosen(found.points.get(case, {})))
        for case in wanted
        if case in truth.points
    }
    summaries = summarize_points([*scores.values()], names, distances_mm)
    truth = replace(truth, subjects={case: subject_of(case, truth.subjects) for case in scores})
    intervals = {s.name: _interval(s.name, scores, truth.subjects, level) for s in summaries}
    if people := repeated_people(truth.subjects.values()):
        notes.append(people)
    from mambamed import __version__

    faults = _faults(found, truth, wanted, predictions)
    others = other_files((predictions, references), [*found.files, *truth.files])
    settings = {
        "predictions": found.source,
        "references": truth.source,
        "sdr_mm": tuple(distances_mm),
        "confidence": level,
        "mambamed": __version__,
        "other_files": others,
    }
    table_shown = landmark_table(summaries, intervals, len(scores), faults, level)
    evaluation = PointEvaluation(
        table=replace(table_shown, notes=[*table_shown.notes, *notes, *others]),
        summaries=tuple(summaries),
        intervals=intervals,
        cases=scores,
        distances_mm=tuple(distances_mm),
        settings=settings,
        output=output,
        paper_table=paper_table(summaries, predictions, paper) if table == "landmarks" else None,
        faults=faults,
    )
    if output is None:
        return evaluation
    return written(evaluation, found, truth, report, worst)


def _spelled_as(found: PointSet, names: Sequence[str], source: str) -> tuple[PointSet, list[str]]:
    """Predicted landmarks with the names of the reference, and notes about names that only one side has.

    Raises DatasetError: no name in common.
    """
    theirs = dict.fromkeys(name for points in found.points.values() for name in points)
    alike = spelled_alike(theirs, names)
    of_reference: dict[str, str] = {}
    for name in sorted(alike, key=lambda each: (alike[each] != each, each)):  # exact names first
        if (other := of_reference.setdefault(alike[name], name)) != name:
            both = f"{named(other)} and {named(name)} are both {named(alike[name])} of {source}"
            raise DatasetError(f"{found.source}: {both}. Rename one of them.")
    if theirs and names and not alike:
        raise DatasetError(
            f"{found.source}: no landmark in common: {some_of(map(named, theirs))} (predictions) | "
            f"{some_of(map(named, names))} ({source}). Rename the landmarks of one of them."
        )
    points = {
        case: {alike.get(name, name): place for name, place in each.items()}
        for case, each in found.points.items()
    }
    sides = {
        "predictions": [name for name in theirs if name not in alike],
        "references": [name for name in names if theirs and name not in of_reference],
    }
    notes = [f"only in the {side}: {some_of(map(named, left))}" for side, left in sides.items() if left]
    return replace(found, points=points), notes


def _asked(landmarks: Sequence[str], names: Sequence[str], source: str) -> list[str]:
    """The recipe's landmarks with the names of the reference.

    Raises DatasetError: both sides have names that the other one lacks.
    """
    alike = spelled_alike(landmarks, names)
    unknown = [name for name in landmarks if name not in alike]
    others = [name for name in names if name not in alike.values()]
    if unknown and others:
        raise DatasetError(
            f"{source}: landmarks: names disagree: {some_of(map(named, unknown))} (the recipe) | "
            f"{some_of(map(named, others))} (references). Correct one of them."
        )
    return [alike.get(name, name) for name in landmarks]


def _interval(
    name: str, scores: Mapping[str, PointScores], subjects: Mapping[str, str], level: float
) -> tuple[float, float]:
    values, owners = [], []
    for case, score in scores.items():
        for landmark, error in score.errors_mm.items():
            if name in (ALL, landmark):
                values.append(error)
                owners.append(subjects[case])
    return bootstrap_interval(values, owners, level) if values else (math.nan, math.nan)


def _faults(
    found: PointSet, truth: PointSet, wanted: Sequence[str], predictions: Path
) -> tuple[CaseError, ...]:
    lines = []
    for case in wanted:
        if case in truth.faults:
            lines.append(f"{case}: {truth.faults[case]}")
        elif case in found.faults:
            lines.append(f"{case}: {found.faults[case]}; all of its landmarks count as missed")
        elif case not in found.points:
            lines.append(f"{case}: has no points in {predictions}; all of its landmarks count as missed")
    return tuple(CaseError(line) for line in lines)


def _as_requested(predictions: Path, references: Path, options: EvaluateOptions) -> PointEvaluation:
    landmarks = options.recipe.dataset.landmarks if options.recipe else None
    chosen = options.chosen("level", "cases", "only_predicted", "output", "report", "worst", "table", "paper")
    chosen |= {"landmarks": landmarks, "distances_mm": options.section.sdr_mm}
    return evaluate_points(predictions, references, **chosen)


def _read_back(folder: Path, name: str, summary: LandmarksSummary) -> Evaluated:
    """A missed landmark has no error, and is a failure at every distance of the success rate."""
    rows = read_case_rows(folder, ["case", "landmark", "status", ERROR])
    rates = {f"sdr_{distance:g}mm": distance for distance in summary.settings.sdr_mm}
    values: dict[tuple[str, str, str], float] = {}
    subjects, cases = {}, {}
    for line, row in enumerate(rows, start=2):
        if row["status"] in _NOT_EXPECTED:
            continue
        unit, error = f"{row['case']}\n{row['landmark']}", read_number(folder, line, row[ERROR])
        subjects[unit], cases[unit] = row.get("subject") or row["case"], row["case"]
        values[unit, row["landmark"], ERROR] = values[unit, ALL, ERROR] = error
        for rate, distance in rates.items():
            values[unit, ALL, rate] = float(error <= distance)
    landmarks = list(dict.fromkeys(row["landmark"] for row in rows if row["status"] not in _NOT_EXPECTED))
    questions = [Question(each, ERROR, higher_is_better=False) for each in (ALL, *landmarks)]
    questions += [Question(ALL, rate, higher_is_better=True) for rate in rates]
    rules = "radial error over the points that all found; a miss fails at every distance"
    return Evaluated(name, "landmarks", tuple(questions), values, subjects, cases, rules, units="points")


SCORER = Scorer(
    contents="landmarks",
    recognizes=holds_points,
    options=frozenset(),
    table="landmarks",
    evaluate=_as_requested,
    read_back=_read_back,
)
