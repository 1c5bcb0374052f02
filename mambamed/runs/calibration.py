"""What the validation cases of a fold taught about its classifier: how sure it may be, and where to draw
the line. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mambamed.errors import DatasetError, ModelError
from mambamed.io.json_files import read_json, write_json
from mambamed.runs.folder import Run

NAME = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Of one fold; all of it was chosen on its validation cases, never on those that are scored later.

    Attributes:
        temperature: logits are divided by it; None: nothing could be calibrated, or was to be.
        threshold: of two classes: the positive one is answered from this probability on; None for more.
        criterion: how the threshold was chosen.
        cases: how many validation cases told this.
    """

    temperature: float | None = None
    threshold: float | None = None
    criterion: str = "half"
    cases: int = 0


def write_calibration(run: Run, fold: int, calibration: Calibration) -> None:
    """Write it into the fold's folder."""
    write_json(run.fold_folder(fold) / NAME, asdict(calibration))


def read_calibration(run: Run, fold: int) -> Calibration | None:
    """What `write_calibration` wrote; None where nothing was.

    Raises:
        ModelError: the document says something else.
    """
    path = run.fold_folder(fold) / NAME
    if not path.is_file():
        return None
    try:
        document = read_json(path)
        temperature, threshold = document["temperature"], document["threshold"]
        if temperature is not None and not 0 < float(temperature) < float("inf"):
            raise ValueError(f"temperature {temperature}")
        if threshold is not None and not 0 <= float(threshold) <= 1:
            raise ValueError(f"threshold {threshold}")
        return Calibration(temperature, threshold, str(document["criterion"]), int(document["cases"]))
    except (DatasetError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: is not a calibration ({error}); validate the fold again") from error
