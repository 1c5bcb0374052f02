"""The scores of masks: cases, the worst structure of each, and their two masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mambamed.documents.evaluation import SegmentationSummary
from mambamed.errors import DatasetError
from mambamed.evaluation.pairing import find_references, names_near
from mambamed.metrics import METRICS, Metric, parse_metric
from mambamed.viewer.case_rows import NO_IMAGE, Rows, common_folder, existing, mean, number, rows_by_case
from mambamed.viewer.content import CaseView, Cell, Column, Role, Subject
from mambamed.viewer.images import Images
from mambamed.viewer.records import least_expected_dice, recorded
from mambamed.viewer.saliency import uncertainty_volumes
from mambamed.viewer.volumes import mask_volume

_MOST_REGIONS = 4  # with a column of their own
_WHERE = "Start the viewer in the folder in which evaluate was run."
_MISSES = ("missed", "invented", "unscored")


def scored_subject(
    folder: Path, summary: SegmentationSummary, images: Path | None, references: Path | None
) -> Subject:
    """The cases of an evaluation of masks."""
    metrics = [parse_metric(name) for name in summary.settings.metrics]
    scores = [metric for metric in metrics if METRICS[metric.kind].better]
    cases = rows_by_case(folder, ["case", "region", "presence", *(metric.name for metric in metrics)])
    files = _files(folder, summary, cases)
    given = find_references(references)[0] if references is not None else {}
    if references is not None and not given.keys() & cases.keys():
        raise DatasetError(f"--references {references}: none of the cases of {folder}. Check the path.")
    if references is None:
        references = common_folder([reference for reference, _ in files.values() if reference is not None])
    finder = Images(images, references, cases)
    answers = names_near(next((p for _, p in files.values() if p is not None), None), references)
    columns, rows = _table(folder, list(summary.regions), scores, cases)
    ids = list(cases)
    answered = {prediction.parent for _, prediction in files.values() if prediction is not None}
    record = {case: known for folder in answered for case, known in recorded(folder).items()}
    expected = [least_expected_dice(record.get(case)) for case in ids]
    if any(value is not None for value in expected):
        columns.append(Column("least expected Dice", "higher"))
        rows = [[*row, value] for row, value in zip(rows, expected, strict=True)]

    def open_case(index: int) -> CaseView:
        case = ids[index]
        reference, prediction = files.get(case, (None, None))
        reference = given.get(case, reference)
        channels = finder.find(case, reference)
        grid = channels[0].read if channels else None
        remarks = [row["fault"] for row in cases[case][:1] if row.get("fault")]
        masks = []
        sides: list[tuple[Role, Path | None]] = [("reference", reference), ("prediction", prediction)]
        for role, path in sides:
            if path is not None:
                masks.append(mask_volume(role, role, path, answers.segments, grid))
            elif not remarks:
                remarks.append(f"No {role}: its file was not found. {_WHERE}")
        if not channels:
            remarks.append(NO_IMAGE)
        facts = {
            f"{row['region']} {metric.title}": number(folder, row, metric.name)
            for row in cases[case]
            for metric in metrics
            if row[metric.name]
        }
        maps = uncertainty_volumes(case, prediction.parent) if prediction is not None else []
        return CaseView((*channels, *masks, *maps), facts=facts, remarks=remarks)

    return Subject(
        title=str(folder), kind="evaluation of masks", ids=ids, open_case=open_case, folder=folder,
        columns=columns, rows=rows, labels=answers.names or _names_of(summary.regions),
        sort_by=0 if scores else None, report=folder / "report.html", inputs=[folder],
    )  # fmt: skip


def _table(
    folder: Path, regions: Sequence[str], scores: Sequence[Metric], cases: Mapping[str, Rows]
) -> tuple[list[Column], list[list[Cell]]]:
    """The worst region in the first metric, the means of all metrics, and the first metric of few regions."""
    first = scores[0] if scores else None
    shown = regions if 1 < len(regions) <= _MOST_REGIONS and first else []
    columns = [Column(f"worst {first.title}", _better(first)), Column("structure")] if first else []
    columns += [Column(f"mean {m.title}", _better(m)) for m in scores]
    columns += [Column(f"{region} {first.title}", _better(first)) for region in shown if first]
    columns.append(Column("missed or invented", "lower"))
    rows: list[list[Cell]] = []
    for lines in cases.values():
        cells: list[Cell] = [mean([number(folder, row, m.name) for row in lines]) for m in scores]
        if first:
            own = {row["region"]: number(folder, row, first.name) for row in lines}
            known = {region: value for region, value in own.items() if not math.isnan(value)}
            choose = min if _better(first) == "higher" else max
            worst = choose(known, key=lambda region: known[region]) if known else None
            cells = [known[worst] if worst else None, worst, *cells, *(own.get(region) for region in shown)]
        cells.append(sum(row["presence"] in _MISSES for row in lines))
        rows.append(cells)
    return columns, rows


def _better(metric: Metric) -> Literal["higher", "lower", ""]:
    return METRICS[metric.kind].better


def _files(
    folder: Path, summary: SegmentationSummary, cases: Mapping[str, Rows]
) -> dict[str, tuple[Path | None, Path | None]]:
    """Case -> reference and prediction, as summary.json names them, in the order of cases.csv."""
    scored = [case for case, rows in cases.items() if not rows[0].get("fault")]
    pairs = [(entry.reference_file, entry.prediction_file) for entry in summary.metric_per_case]
    if len(pairs) != len(scored):  # cases without any structure have no row
        named = {case: pair for pair in pairs for case in scored if Path(pair[1]).name.startswith(f"{case}.")}
    else:
        named = dict(zip(scored, pairs, strict=True))
    return {case: (existing(a, folder), existing(b, folder)) for case, (a, b) in named.items()}


def _names_of(regions: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Names of labels that are a region of their own."""
    return {name: members[0] for name, members in regions.items() if len(members) == 1}
