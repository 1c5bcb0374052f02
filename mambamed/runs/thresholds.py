"""From which score on each landmark counts as there: what the validation cases of a fold taught. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mambamed.errors import DatasetError, ModelError
from mambamed.io.json_files import read_json, write_json
from mambamed.runs.folder import Run

NAME = "thresholds.json"


def write_thresholds(run: Run, fold: int, thresholds: Mapping[str, float], cases: int) -> None:
    """Write them into the fold's folder.

    Args:
        thresholds: landmark -> score; 0 where it is never absent.
        cases: how many validation cases told this.
    """
    write_json(run.fold_folder(fold) / NAME, {"cases": cases, "thresholds": dict(thresholds)})


def read_thresholds(run: Run, fold: int) -> dict[str, float] | None:
    """What `write_thresholds` wrote; None where nothing was.

    Raises:
        ModelError: the document says something else.
    """
    path = run.fold_folder(fold) / NAME
    if not path.is_file():
        return None
    try:
        found = {str(name): float(value) for name, value in read_json(path)["thresholds"].items()}
        if not all(math.isfinite(value) for value in found.values()):
            raise ValueError("a threshold is not finite")
    except (AttributeError, DatasetError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: holds no thresholds ({error}); validate the fold again") from error
    return found
