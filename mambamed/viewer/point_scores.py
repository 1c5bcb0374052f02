"""The errors of landmarks: cases, the worst landmark of each, and pairs of points."""

from __future__ import annotations

from pathlib import Path

from mambamed.documents.evaluation import LandmarksSummary
from mambamed.viewer.case_rows import NO_IMAGE, existing, mean, number, position, rows_by_case
from mambamed.viewer.content import CaseView, Cell, Column, PointPair, Subject
from mambamed.viewer.images import Images


def scored_subject(
    folder: Path, summary: LandmarksSummary, images: Path | None, references: Path | None
) -> Subject:
    """The cases of an evaluation of landmarks."""
    cases = rows_by_case(folder, ["case", "landmark", "status", "error_mm", "x", "reference_x"])
    source = existing(summary.settings.references, folder)
    finder = Images(images, references or source, cases)
    columns = [
        Column("mean error, mm", "lower"), Column("largest error, mm", "lower"), Column("landmark"),
        Column("missed", "lower"), Column("spurious", "lower"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for lines in cases.values():
        errors = {row["landmark"]: number(folder, row, "error_mm") for row in lines if row["error_mm"]}
        worst = max(errors, key=lambda name: errors[name]) if errors else None
        counts = [sum(row["status"] == what for row in lines) for what in ("missed", "spurious")]
        rows.append([mean([*errors.values()]), errors[worst] if worst else None, worst, *counts])
    ids = list(cases)

    def open_case(index: int) -> CaseView:
        case = ids[index]
        pairs = [
            PointPair(row["landmark"], position(folder, row, "reference_"), position(folder, row, ""))
            for row in cases[case]
        ]
        channels = finder.find(case, None)
        remarks = [] if channels else [NO_IMAGE]
        return CaseView(channels, pairs, remarks=remarks)

    return Subject(
        title=str(folder), kind="evaluation of landmarks", ids=ids, open_case=open_case, folder=folder,
        columns=columns, rows=rows, sort_by=1, report=folder / "report.html", inputs=[folder],
    )  # fmt: skip
