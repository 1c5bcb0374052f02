"""Temperature and threshold of a classifier, chosen on the validation cases of a fold. No torch."""

from __future__ import annotations

from mambamed.documents.run import Calibration
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.run.folder import Run

NAME = "calibration.json"


def write_calibration(run: Run, fold: FoldName, calibration: Calibration) -> None:
    """Write it into the fold's folder."""
    calibration.write(run.fold_folder(fold) / NAME)


def read_calibration(run: Run, fold: FoldName) -> Calibration | None:
    """What `write_calibration` wrote; None if nothing was.

    Raises ModelError: the file has faults, or a threshold although there are not two classes.
    """
    path = run.find(f"fold_{fold}/{NAME}")
    if path is None:
        return None
    found = Calibration.read(path)
    if found.threshold is not None and len(run.manifest.classes) != 2:
        raise ModelError(
            f"{path}: threshold: expected none for {len(run.manifest.classes)} classes, got "
            f"{found.threshold:g}. {found.REMEDY}"
        )
    return found
