"""The files and tables of an evaluation of landmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.converters.point_sets import PointSet
from mambamed.documents.evaluation import CasePoints, LandmarkRow, LandmarksSettings, LandmarksSummary
from mambamed.errors import CaseError
from mambamed.evaluation.result import Evaluation
from mambamed.io.tables import write_csv
from mambamed.metrics.points import (
    POINT_METRICS,
    LandmarkSummary,
    PointScores,
)
from mambamed.report.page import Distribution, Page, WorstCase, write_page
from mambamed.report.tables import Table, shown, shown_interval

ERROR = "error_mm"
ABSENT = "absent"  # in the reference, and not predicted
_NOT_EXPECTED = ("spurious", ABSENT)


@dataclass(frozen=True, kw_only=True)
class PointEvaluation(Evaluation):
    """The evaluation of landmarks."""

    summaries: tuple[LandmarkSummary, ...]  # one per landmark, "all" last
    # landmark -> confidence interval of its mean radial error, by subject
    intervals: Mapping[str, tuple[float, float]]
    # case id -> errors, missed and spurious points; a case without a prediction misses all
    cases: Mapping[str, PointScores]
    distances_mm: tuple[float, ...]  # of the success detection rate


def landmark_table(
    summaries: Sequence[LandmarkSummary],
    intervals: Mapping[str, tuple[float, float]],
    cases: int,
    faults: Sequence[CaseError],
    level: float,
) -> Table:
    """Errors (mm), success rates and counts of each landmark, "all" last.

    Args:
        intervals: landmark -> confidence interval of its mean radial error, mm.
        cases: number of cases.
        level: confidence level of the intervals.
    """
    distances = list(summaries[0].sdr)
    mean, sd, *others = POINT_METRICS
    others = [name for name in others if POINT_METRICS[name].title]
    headers = ["landmark", POINT_METRICS[mean].title, f"{level:.0%} CI"]
    headers += [POINT_METRICS[name].title for name in others]
    headers += [f"SDR {d:g} mm" for d in distances] + ["found", "spurious"]
    rows = [
        [
            s.name,
            f"{shown(s.values[mean])} ± {shown(s.values[sd])}",
            shown_interval(intervals[s.name]),
            *(shown(s.values[name]) for name in others),
            *(shown(s.sdr[d]) for d in distances),
            f"{s.found} of {s.expected}",
            f"{s.spurious} of {s.absent}" if s.absent else "0",
        ]
        for s in summaries
    ]
    notes = ["MRE: mean ± SD of the radial error of the points found; SDR: part of all points found within"]
    if summaries[-1].absent:
        notes.append("spurious: points that were placed, of those that are absent in the reference")
    if faults:
        notes.append(f"{len(faults)} cases could not be scored; their landmarks count as missed")
    return Table(f"{cases} case{'s' * (cases != 1)}, {len(summaries) - 1} landmarks", headers, rows, notes)


def paper_table(
    summaries: Sequence[LandmarkSummary], predictions: Path, paper: Mapping[str, float | str] | None
) -> Table:
    """Mean radial error in mm of each landmark and their average, one row per method."""
    names = [s.name for s in summaries[:-1]]
    means = {s.name: s.values["mre_mm"] for s in summaries[:-1]}
    means["Average"] = float(np.mean(list(means.values())))
    rows = [[predictions.resolve().name, *(_cell(means[name]) for name in (*names, "Average"))]]
    if paper:
        spoken = {key.replace(" ", "").lower(): value for key, value in paper.items()}
        theirs = [spoken.get(name.replace(" ", "").lower(), math.nan) for name in (*names, "Average")]
        method = f"paper ({paper.get('source', 'its own numbers')})"
        rows.append([method, *(_cell(float(value)) for value in theirs)])
    points = summaries[-1]
    note = f"mean radial error, mm, of {points.found} of {points.expected} points"
    return Table("Landmark detection", ["method", *names, "Average"], rows, [note])


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def written(
    evaluation: PointEvaluation, found: PointSet, truth: PointSet, report: bool, worst: int
) -> PointEvaluation:
    """Write the files of an evaluation into its output folder; `worst` cases are listed in the report."""
    output = evaluation.output
    assert output is not None
    written = evaluation.write_paper_table("landmarks")
    headers, rows = _case_rows(evaluation, found, truth)
    write_csv(output / "cases.csv", headers, rows)
    write_csv(output / "summary.csv", *_summary_rows(evaluation))
    written += [output / "cases.csv", output / "summary.csv"]
    if report:
        written.append(_report(evaluation, headers, rows, worst))
    LandmarksSummary(
        settings=LandmarksSettings(**evaluation.settings),
        summaries=tuple(_row(evaluation, s) for s in evaluation.summaries[:-1]),
        overall=_row(evaluation, evaluation.summaries[-1]),
        cases={
            case: CasePoints(
                errors_mm=dict(s.errors_mm), missed=s.missed, spurious=s.spurious, absent=s.absent
            )
            for case, s in evaluation.cases.items()
        },
        faults=tuple(str(fault) for fault in evaluation.faults),
    ).write(output / "summary.json")
    return replace(evaluation, written=(*written, output / "summary.json"))


def _row(evaluation: PointEvaluation, s: LandmarkSummary) -> LandmarkRow:
    return LandmarkRow(
        name=s.name,
        mean=s.values["mre_mm"],
        sd=s.values["sd_mm"],
        interval=evaluation.intervals[s.name],
        median=s.values["median_mm"],
        max=s.values["max_mm"],
        values=dict(s.values),
        found=s.found,
        expected=s.expected,
        spurious=s.spurious,
        absent=s.absent,
        sdr={f"{d:g}": value for d, value in s.sdr.items()},
    )


def _summary_rows(evaluation: PointEvaluation) -> tuple[list[str], list[list[Any]]]:
    mean, sd, *others = POINT_METRICS
    headers = ["landmark", mean, sd, "ci_low", "ci_high", *others]
    headers += [f"sdr_{d:g}mm" for d in evaluation.distances_mm]
    headers += ["found", "expected", "spurious", "absent"]
    rows = [
        [
            s.name, s.values[mean], s.values[sd], *evaluation.intervals[s.name],
            *(s.values[name] for name in others), *s.sdr.values(), s.found, s.expected, s.spurious, s.absent,
        ]
        for s in evaluation.summaries
    ]  # fmt: skip
    return headers, rows


def _case_rows(
    evaluation: PointEvaluation, found: PointSet, truth: PointSet
) -> tuple[list[str], list[list[Any]]]:
    headers = ["case", "landmark", "status", "error_mm", "x", "y", "z"]
    headers += ["reference_x", "reference_y", "reference_z", "subject"]
    rows = []
    for case, score in evaluation.cases.items():
        status = dict.fromkeys(score.errors_mm, "found") | dict.fromkeys(score.missed, "missed")
        status |= dict.fromkeys(score.absent, ABSENT) | dict.fromkeys(score.spurious, "spurious")
        for name, what in status.items():
            placed = found.points.get(case, {}).get(name) or (None,) * 3
            there = truth.points[case].get(name) or (None,) * 3
            person = truth.subjects[case]
            rows.append([case, name, what, score.errors_mm.get(name), *placed, *there, person])
    return headers, rows


def _report(
    evaluation: PointEvaluation, headers: Sequence[str], rows: Sequence[Sequence[Any]], worst: int
) -> Path:
    assert evaluation.output is not None
    errors = {
        s.name: [(c, e.errors_mm[s.name]) for c, e in evaluation.cases.items() if s.name in e.errors_mm]
        for s in evaluation.summaries[:-1]
    }
    settings, faults = evaluation.settings, [str(fault) for fault in evaluation.faults]
    lead = f"{settings['predictions']} against {settings['references']}"
    plots = [Distribution("Radial error", "mm", False, errors)]
    cases = _worst(evaluation.cases, worst)
    page = Page("Landmarks", lead, evaluation.table, plots, cases, headers, rows, settings, faults)
    path = evaluation.output / "report.html"
    write_page(path, page)
    return path


def _worst(cases: Mapping[str, PointScores], count: int) -> list[WorstCase]:
    """The cases with most missed or spurious landmarks first, then by the largest error."""
    ranked = []
    for case, score in cases.items():
        wrong = [*score.missed, *score.spurious]
        name = max(score.errors_mm, key=lambda n: score.errors_mm[n], default="")
        largest = score.errors_mm.get(name, 0.0)
        reason = f"{name}: {largest:.4g} mm" if name else "nothing found"
        reason = f"{len(wrong)} missed or spurious; {reason}" if wrong else reason
        ranked.append((-len(wrong), -largest, case, reason))
    return [WorstCase(case, reason, None) for _, _, case, reason in sorted(ranked)[:count]]
