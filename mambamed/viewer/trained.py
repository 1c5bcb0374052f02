"""A run as subject: its curves while it trains, and the validation cases of its folds when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.errors import DatasetError
from mambamed.numerals import is_whole
from mambamed.run.folder import Run
from mambamed.viewer.content import CaseView, Cell, Column, Subject
from mambamed.viewer.evaluated import evaluation_subject, is_evaluation
from mambamed.viewer.training import patches_of, training_of


def is_run(folder: Path) -> bool:
    """Whether a folder is a run."""
    return (folder / "recipe.yaml").is_file() and (folder / "plan.json").is_file()


def run_subject(
    root: Path, images: Path | None, references: Path | None, earlier: Sequence[str] = ()
) -> Subject:
    """The training of all folds, and the cases of those that are validated.

    Args:
        images, references: as in `Images` (default: those of the prepared dataset it was trained on).
        earlier: folders of folds whose cases come first, in this order.

    Raises:
        ModelError, DatasetError: its files cannot be read.
    """
    run = Run.open(root)
    parts: dict[str, Subject] = {}
    faults: list[str] = []
    for folder in dict.fromkeys([*(root / name for name in earlier), *sorted(root.glob("fold_*"))]):
        if is_evaluation(folder):
            fold = folder.name.removeprefix("fold_")
            known = run.recorded(int(fold) if is_whole(fold) else "none").get("prepared")
            prepared = Path(known) if known and Path(known).is_dir() else None
            try:
                parts[folder.name] = evaluation_subject(folder, images, references or prepared)
            except DatasetError as error:  # the curves can be shown nevertheless
                faults.append(str(error))
    first = next(iter(parts.values()), None)
    columns = [Column("fold"), *first.columns] if first else []
    places = [(part, index) for part in parts.values() for index in range(len(part.ids))]
    ids = [part.ids[index] for part, index in places]
    if len(set(ids)) < len(ids):  # several folds have validated a case
        ids = [f"{name}/{case}" for name, part in parts.items() for case in part.ids]
    rows: list[list[Cell]] = [
        [name.removeprefix("fold_"), *row] for name, part in parts.items() for row in part.rows
    ]
    if any(part.columns != parts[next(iter(parts))].columns for part in parts.values()):
        raise DatasetError(
            f"{root}: its folds were scored differently. View one of them, e.g. {root}/fold_0."
        )

    def open_case(index: int) -> CaseView:
        part, own = places[index]
        return part.open_case(own)

    sort_by = None if first is None or first.sort_by is None else first.sort_by + 1
    return Subject(
        title=str(root), kind=f"run of {run.recipe.task}", ids=ids, open_case=open_case,
        folder=root, columns=columns, rows=rows, labels=run.manifest.labels,
        sort_by=sort_by, training=lambda: training_of(root),
        renew=lambda: run_subject(root, images, references, tuple(parts)),
        patches=lambda number: patches_of(root, number), inputs=[root], faults=faults,
    )  # fmt: skip
