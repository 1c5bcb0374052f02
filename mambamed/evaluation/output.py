"""Write an evaluation of masks: CSV tables, `summary.json` and `report.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambamed.cases import SegmentNames
from mambamed.documents.evaluation import RegionRow, SegmentationSettings, SegmentationSummary
from mambamed.errors import MambamedError
from mambamed.evaluation.backgrounds import Backgrounds
from mambamed.evaluation.label_pair import read_pair
from mambamed.evaluation.pairing import Answers
from mambamed.evaluation.result import Evaluation
from mambamed.evaluation.scoring import CaseScores, on_grid_of
from mambamed.evaluation.summary import case_rows, nnunet_keys, penalty_of, summary_rows
from mambamed.io.images import read_header, read_image
from mambamed.io.tables import write_csv
from mambamed.metrics import METRICS, Metric
from mambamed.metrics.rules import Rules
from mambamed.report.page import Distribution, Page, WorstCase, write_page
from mambamed.report.pictures import PicturedCase, render_cases
from mambamed.report.tables import Table

_NOT_IN_REPORT = ("tp", "fp", "fn", "subject", "penalty_mm")  # columns that only cases.csv has


@dataclass(frozen=True, kw_only=True)
class MaskEvaluation(Evaluation):
    """The evaluation of segmentation masks.

    Attributes:
        summaries: every region in every metric.
        regions: names in the order of the tables -> labels.
        metrics: in the order of the tables.
        rules: the conventions; `settings` describes them in words.
    """

    summaries: tuple[RegionRow, ...]
    cases: tuple[CaseScores, ...]
    regions: Mapping[str, tuple[int, ...]]
    metrics: tuple[Metric, ...]
    rules: Rules


def write_tables(evaluation: MaskEvaluation) -> list[Path]:
    """Write `cases.csv`, `summary.csv` and `summary.json`, which is last and marks the output as complete."""
    output, regions = evaluation.output, evaluation.regions
    assert output is not None
    paths = [output / name for name in ("cases.csv", "summary.csv", "summary.json")]
    write_csv(paths[0], *case_rows(evaluation.cases, list(regions), evaluation.metrics, evaluation.rules))
    write_csv(paths[1], *summary_rows(evaluation.summaries))
    SegmentationSummary(
        **nnunet_keys(evaluation.cases, regions, evaluation.metrics),
        regions=dict(regions),
        settings=SegmentationSettings(**evaluation.settings),
        summaries=evaluation.summaries,
        faults=tuple(str(fault) for fault in evaluation.faults),
    ).write(paths[2])
    return paths


def write_report(
    evaluation: MaskEvaluation, title: str, lead: str, summary: Table, worst: Sequence[WorstCase]
) -> Path:
    """Write `report.html` to the evaluation's folder; returns its path."""
    assert evaluation.output is not None
    cases, regions, metrics = evaluation.cases, list(evaluation.regions), evaluation.metrics
    headers, rows = case_rows(cases, regions, metrics, evaluation.rules)
    kept = [i for i, name in enumerate(headers) if name not in _NOT_IN_REPORT]
    headers, *rows = ([row[i] for i in kept] for row in [headers, *rows])
    plots = [
        Distribution(
            f"{m.title} ({m.convention})" if m.convention else m.title,
            METRICS[m.kind].unit,
            METRICS[m.kind].better == "higher",
            {r: [(c.case, c.regions[r].values[m.name]) for c in cases if r in c.regions] for r in regions},
        )
        for m in metrics
        if METRICS[m.kind].better
    ]
    faults = [str(fault) for fault in evaluation.faults]
    page = Page(title, lead, summary, plots, worst, headers, rows, evaluation.settings, faults)
    path = evaluation.output / "report.html"
    write_page(path, page)
    return path


def find_pictures(
    evaluation: MaskEvaluation, count: int, answers: Answers, backgrounds: Backgrounds
) -> list[WorstCase]:
    """The worst cases, with pictures.

    Args:
        answers: names of labels, for the legends (default: regions with one label) and for segmentations.
        backgrounds: the images behind the outlines.
    """
    alone = {name: members[0] for name, members in evaluation.regions.items() if len(members) == 1}
    found = []
    for case, reason in worst_cases(evaluation.cases, evaluation.metrics, evaluation.rules, count):
        image = backgrounds.find(case.case, case.reference)
        picture, remark = _picture(case, answers.names or alone, answers.segments, image)
        found.append(WorstCase(case.case, f"{reason}{remark}", picture))
    return found


def worst_cases(
    cases: Sequence[CaseScores], metrics: Sequence[Metric], rules: Rules, count: int
) -> list[tuple[CaseScores, str]]:
    """The cases with the worst region in the first metric that has a better direction, and the reason.

    Undefined values are ignored; an infinite distance counts as its penalty.
    """
    deciding = next((m for m in metrics if METRICS[m.kind].better), None)
    if deciding is None:
        return []
    higher = METRICS[deciding.kind].better == "higher"
    found = []
    for case in cases:
        values = {r: s.values[deciding.name] for r, s in case.regions.items()}
        values = {r: v for r, v in values.items() if not math.isnan(v)}
        if values:
            region = (min if higher else max)(values, key=lambda r: values[r])
            badness = -values[region] if higher else min(values[region], penalty_of(case, "lower", rules))
            presence = case.regions[region].presence
            remark = "" if presence == "present" else f", {presence}"
            found.append((badness, case, f"{region}: {deciding.title} {values[region]:.4g}{remark}"))
    found.sort(key=lambda entry: (-entry[0], entry[1].case))
    return [(case, reason) for _, case, reason in found[:count]]


def _picture(
    case: CaseScores, names: Mapping[str, int], segments: SegmentNames, path: Path | None
) -> tuple[bytes | None, str]:
    """Three planes of the case on its image, or on black; and a remark on the image."""
    assert case.prediction is not None
    try:
        truth, answer = read_pair(case.reference, case.prediction, segments, resample=True)
        assert answer is not None
        prediction = on_grid_of(truth, answer.array, answer.affine, case.prediction, resample=True)
    except MambamedError:
        return None, ""
    background, remark = np.zeros(truth.array.shape, np.uint8), "; no image found, see --images"
    if path is not None:
        try:
            image = read_image(path, 0 if read_header(path).volumes > 1 else None)
            background = on_grid_of(truth, image.array, image.affine, path, resample=True)
            remark = f"; on {path.name}"
        except MambamedError as error:
            remark = f"; without its image: {error}"
    pictured = PicturedCase(case.case, background, truth.affine, truth.array, prediction)
    return render_cases([pictured], names), remark
