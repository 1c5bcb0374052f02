"""An evaluation as files: CSV for spreadsheets, JSON for scripts, a page for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.converters import brats
from mambamed.errors import MambamedError
from mambamed.evaluation.scoring import CaseScores, on_grid_of
from mambamed.evaluation.summary import (
    MetricSummary,
    case_rows,
    nnunet_document,
    penalty_of,
    summary_rows,
)
from mambamed.io.documents import write_json
from mambamed.io.images import SUFFIXES, Image, read_image
from mambamed.io.tables import write_csv
from mambamed.metrics import METRICS, Metric
from mambamed.metrics.rules import Rules
from mambamed.report.page import Distribution, Page, WorstCase, write_page
from mambamed.report.pictures import PicturedCase, render_cases
from mambamed.report.tables import Table

FORMAT = 1


def write_tables(
    output: Path,
    cases: Sequence[CaseScores],
    summaries: Sequence[MetricSummary],
    regions: Mapping[str, Sequence[int]],
    metrics: Sequence[Metric],
    rules: Rules,
    settings: Mapping[str, Any],
    faults: Sequence[str],
) -> None:
    """Write `cases.csv`, `summary.csv` and `summary.json`, in this order: the last says that all is there."""
    write_csv(output / "cases.csv", *case_rows(cases, list(regions), metrics, rules))
    write_csv(output / "summary.csv", *summary_rows(summaries))
    document = nnunet_document(cases, regions, metrics) | {
        "format": FORMAT,
        "regions": {name: list(members) for name, members in regions.items()},
        "settings": dict(settings),
        "summaries": [asdict(summary) for summary in summaries],
        "faults": list(faults),
    }
    write_json(output / "summary.json", document)


def write_report(
    output: Path,
    title: str,
    lead: str,
    table: Table,
    cases: Sequence[CaseScores],
    regions: Mapping[str, Sequence[int]],
    metrics: Sequence[Metric],
    rules: Rules,
    settings: Mapping[str, Any],
    faults: Sequence[str],
    worst: int,
    images: Path | None,
    references: Path,
) -> None:
    """Write `report.html`.

    Args:
        output: its folder.
        title, lead: what was compared.
        table: the summary.
        cases, regions, metrics, rules, settings, faults: of the evaluation.
        worst: how many cases to show as pictures.
        images: folder of the images behind the outlines; None: looked for beside the references.
        references: where they were found.
    """
    headers, rows = case_rows(cases, list(regions), metrics, rules)
    for name in (
        "tp",
        "fp",
        "fn",
        "subject",
        "penalty_mm",
    ):  # in cases.csv; here they would only be in the way
        place = headers.index(name)
        headers, rows = _without(headers, place), [_without(row, place) for row in rows]
    plots = [
        Distribution(
            f"{METRICS[m.kind].title if m.tolerance_mm is None else m.title} ({m.name})",
            METRICS[m.kind].unit,
            METRICS[m.kind].better == "higher",
            {r: [(c.case, c.regions[r].values[m.name]) for c in cases if r in c.regions] for r in regions},
        )
        for m in metrics
        if METRICS[m.kind].better
    ]
    pictured = [
        WorstCase(case.case, reason, _picture(case, regions, images, references))
        for case, reason in worst_cases(cases, metrics, rules, worst)
    ]
    page = Page(title, lead, table, plots, pictured, headers, rows, settings, faults)
    write_page(output / "report.html", page)


def _without(row: list[Any], place: int) -> list[Any]:
    return row[:place] + row[place + 1 :]


def worst_cases(
    cases: Sequence[CaseScores], metrics: Sequence[Metric], rules: Rules, count: int
) -> list[tuple[CaseScores, str]]:
    """The cases whose worst region in the first metric is worst, and why; undefined values are not bad.

    Args:
        cases: all of them; those that could not be scored are elsewhere.
        metrics: the first that knows better from worse decides.
        rules: for the penalty of an infinite distance.
        count: how many.
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
    case: CaseScores, regions: Mapping[str, Sequence[int]], images: Path | None, references: Path
) -> bytes | None:
    """Three planes of the case; on its image where one is found, else on black."""
    assert case.prediction is not None
    try:
        truth, answer = read_image(case.reference), read_image(case.prediction)
        prediction = on_grid_of(truth, answer.array, answer.affine, case.prediction, resample=True)
        background = _background(case, truth, images, references)
    except MambamedError:
        return None
    names = {name: members[0] for name, members in regions.items() if len(members) == 1}
    pictured = PicturedCase(case.case, background, truth.affine, truth.array, prediction)
    return render_cases([pictured], names)


def _background(case: CaseScores, truth: Image, images: Path | None, references: Path) -> np.ndarray:
    for path in _image_candidates(case.case, case.reference, images, references):
        if path.is_file():
            image = read_image(path, None if not _is_4d(path) else 0)
            if image.array.shape == truth.array.shape:
                return image.array
    return np.zeros(truth.array.shape, np.uint8)


def _is_4d(path: Path) -> bool:
    from mambamed.io.images import read_header

    return read_header(path).volumes > 1


def _image_candidates(case: str, reference: Path, images: Path | None, references: Path) -> list[Path]:
    """Where the image of a case may be: BraTS' FLAIR beside it, `imagesTr` beside `labelsTr`, `CASE_0000`."""
    folder = reference.parent
    siblings = [folder.parent / name for name in ("imagesTr", "imagesTs")]
    modalities = brats.case_files(folder).get(case, {}) if images is None and folder != references else {}
    found = [modalities[name] for name in ("t2f", "t1c", "t2w", "t1n") if name in modalities]
    for place in [images] if images is not None else siblings:
        found += [place / f"{case}{middle}{end}" for middle in ("", "_0000") for end in SUFFIXES]
    return found
