"""The scores of classes: cases, the least probable reference first, with saliency maps."""

from __future__ import annotations

from pathlib import Path

from mambamed.documents.evaluation import ClassificationSummary
from mambamed.errors import DatasetError
from mambamed.evaluation.class_report import class_columns
from mambamed.schema_errors import named
from mambamed.viewer.case_rows import NO_IMAGE, mean, number, rows_by_case
from mambamed.viewer.content import CaseView, Cell, Column, Subject
from mambamed.viewer.images import Images
from mambamed.viewer.saliency import saliency_volumes


def scored_subject(
    folder: Path, summary: ClassificationSummary, images: Path | None, references: Path | None
) -> Subject:
    """The cases of an evaluation of class probabilities."""
    classes = summary.settings.classes
    column_of = class_columns(classes)
    cases = rows_by_case(folder, ["case", "run", "reference", "label", "right", *column_of.values()])
    finder = Images(images, references, cases)
    columns = [
        Column("reference"), Column("predicted"), Column("right", "higher"),
        Column("probability of the reference", "higher"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for lines in cases.values():
        row = lines[0]
        truth = row["reference"]
        if truth not in column_of:
            raise DatasetError(
                f"{folder / 'cases.csv'}: reference: expected one of {', '.join(classes)}, got "
                f"{named(truth)}. Run evaluate again."
            )
        chances = [number(folder, each, column_of[truth]) for each in lines]
        right = sum(each["right"] == "1" for each in lines) / len(lines)
        labels = ", ".join(dict.fromkeys(each["label"] for each in lines))
        rows.append([truth, labels or None, right, mean(chances)])
    ids = list(cases)
    places = [folder, folder.parent, *folder.parent.glob("pred*")]

    def open_case(index: int) -> CaseView:
        case = ids[index]
        channels = finder.find(case, None)
        maps = saliency_volumes(case, places, cases[case][0]["run"])
        facts: dict[str, Cell] = {}
        for row in cases[case]:
            chances = [name for name, column in column_of.items() if row[column]]
            facts |= {f"{row['run']}: {name}": number(folder, row, column_of[name]) for name in chances}
        remarks = [] if channels else [NO_IMAGE]
        return CaseView((*channels, *maps), facts=facts, remarks=remarks)

    return Subject(
        title=str(folder), kind="evaluation of classes", ids=ids, open_case=open_case, folder=folder,
        columns=columns, rows=rows, sort_by=3, report=folder / "report.html", inputs=[folder],
    )  # fmt: skip
