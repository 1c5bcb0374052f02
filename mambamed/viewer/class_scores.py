"""The scores of classes: cases, the least probable reference first, with saliency maps."""

from __future__ import annotations

from pathlib import Path

from mambamed.documents.evaluation import ClassificationSummary
from mambamed.errors import DatasetError
from mambamed.evaluation.class_report import class_columns
from mambamed.schema_errors import named
from mambamed.viewer.case_rows import NO_IMAGE, existing, mean, number, rows_by_case
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
    source = references or existing(summary.settings.references, folder)
    finder = Images(images or _images_near(source), source, cases)
    columns = [
        Column("reference"), Column("predicted"), Column("correct", "higher"),
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
    answered = existing(summary.settings.predictions, folder)
    places = [folder] if answered is None else [folder, answered if answered.is_dir() else answered.parent]

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


def _images_near(references: Path | None) -> Path | None:
    """The folder of images that a table of classes is about: a folder next to it, or the BIDS dataset."""
    if references is None or not references.is_file():
        return None
    folder = references.parent / "images"
    return folder if folder.is_dir() else references.parent if references.stem == "participants" else None
