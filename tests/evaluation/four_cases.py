"""An evaluation whose means are known: two cases with values, one in neither mask, one unreadable."""

import math
from pathlib import Path

from mambamed.errors import CaseError
from mambamed.evaluation.output import MaskEvaluation
from mambamed.evaluation.scoring import CaseScores
from mambamed.evaluation.summary import summarize
from mambamed.metrics import parse_metrics
from mambamed.metrics.overlap import Counts
from mambamed.metrics.rules import DEFAULT
from mambamed.metrics.segmentation import RegionScores
from mambamed.report.tables import Table

METRICS = parse_metrics(["dice", "hd95"])
SETTINGS = {
    "protocol": "mambamed",
    "metrics": tuple(metric.name for metric in METRICS),
    "rules": "by hand",
    "confidence": 0.95,
    "labels_from": "the test",
    "mambamed": "0",
    "numpy": "0",
    "scipy": "0",
    "computed_with": "nothing",
}


def scored(case: str, dice: float, hd95: float, fault: str | None = None) -> CaseScores:
    values = {"dice": dice, "hd95:max-directed": hd95}
    regions = {} if fault else {"organ": RegionScores(Counts(6, 2, 2, 90), "present", values)}
    return CaseScores(case, regions, Path(f"{case}.nii"), Path(f"p/{case}.nii"), 100.0, case, fault)


CASES = [
    scored("a", 0.8, 2.0),
    scored("b", 0.4, math.inf),
    scored("c", math.nan, math.nan),
    scored("d", 0, 0, fault="d.nii: unreadable"),
]


def evaluation_in(folder: Path) -> MaskEvaluation:
    """The evaluation of the four cases; nothing is written yet."""
    return MaskEvaluation(
        table=Table("Scores", ["Region"], [["organ"]]),
        settings=SETTINGS,
        output=folder,
        faults=(CaseError("d.nii: unreadable"),),
        summaries=tuple(summarize(CASES, ["organ"], METRICS, DEFAULT)),
        cases=tuple(CASES),
        regions={"organ": (1,)},
        metrics=METRICS,
        rules=DEFAULT,
    )
