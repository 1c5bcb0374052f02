"""Score from which a landmark counts as present, chosen on the validation cases of a fold. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from mambamed.documents.run import Thresholds
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.run.folder import Run

NAME = "thresholds.json"


def write_thresholds(run: Run, fold: FoldName, thresholds: Mapping[str, float], cases: int) -> None:
    """Write thresholds into the fold's folder.

    Args:
        thresholds: landmark -> score; 0 if it is never absent.
        cases: number of validation cases on which they were chosen.
    """
    Thresholds(cases=cases, thresholds=dict(thresholds)).write(run.fold_folder(fold) / NAME)


def read_thresholds(run: Run, fold: FoldName) -> dict[str, float] | None:
    """What `write_thresholds` wrote; None if nothing was.

    Raises ModelError: the file has faults, or holds thresholds of other landmarks.
    """
    path = run.find(f"fold_{fold}/{NAME}")
    if path is None:
        return None
    found = Thresholds.read(path)
    if set(found.thresholds) != set(run.manifest.landmarks):
        raise ModelError(
            f"{path}: thresholds: expected the landmarks {', '.join(run.manifest.landmarks)}, got "
            f"{', '.join(found.thresholds) or 'none'}. {found.REMEDY}"
        )
    return found.thresholds
