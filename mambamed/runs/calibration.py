"""Temperature and threshold of a classifier, chosen on the validation cases of a fold. No torch."""

from __future__ import annotations

from mambamed.documents.run import Calibration
from mambamed.runs.folder import Run

NAME = "calibration.json"


def write_calibration(run: Run, fold: int, calibration: Calibration) -> None:
    """Write it into the fold's folder."""
    calibration.write(run.fold_folder(fold) / NAME)


def read_calibration(run: Run, fold: int) -> Calibration | None:
    """What `write_calibration` wrote; None if nothing was.

    Raises:
        ModelError: the file has faults.
    """
    path = run.fold_folder(fold) / NAME
    return Calibration.read(path) if path.is_file() else None
