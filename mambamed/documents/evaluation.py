"""`summary.json` of an evaluation: one model per task.

That of a segmentation also has the keys of nnU-Net's `summary.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from mambamed.documents.base import Count, Document, Finite, Fraction, Model, Positive
from mambamed.errors import DatasetError
from mambamed.io.json_files import read_json
from mambamed.metrics import parse_metric

# A measured value: NaN if undefined, infinite if one of two masks is empty.
Number = Annotated[float, Field(allow_inf_nan=True)]
Interval = tuple[Number, Number]


def _known_metric(text: str) -> str:
    parse_metric(text)
    return text


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # NaN, which is no JSON


class Row(Model):
    """One metric over all cases.

    Attributes:
        mean, sd: over the cases, points or runs in which it is defined; sd with n - 1.
        interval: confidence interval of the mean, by subject.
    """

    mean: Number
    sd: Number
    interval: Annotated[Interval, Field(json_schema_extra=_without_default)] = (math.nan, math.nan)


class RegionRow(Row):
    """One metric of one region over all cases.

    Attributes:
        cases: number of references.
        defined: cases with a finite value, from which mean, sd, median etc. are computed.
        empty: cases in which the metric is undefined: the region is in neither mask, or not in the one that
            the metric divides by, e.g. recall.
        infinite: cases with an infinite value: one of the masks is empty.
        unscored: cases without a usable prediction.
        low, high: quartiles.
        mean_penalized: mean over the defined, infinite and unscored cases; the latter two count with the
            stated penalty (distances) or as a miss (fractions).
    """

    region: str
    metric: str
    cases: Count
    defined: Count
    empty: Count
    infinite: Count
    unscored: Count
    median: Number
    low: Number
    high: Number
    minimum: Number
    maximum: Number
    mean_penalized: Number

    @property
    def name(self) -> str:
        """The region."""
        return self.region


class LandmarkRow(Row):
    """The radial error of one landmark, or of all.

    Attributes:
        name: of the landmark, or "all".
        values: every metric of `POINT_METRICS`, by its column in `summary.csv`.
        sdr: distance in mm -> success detection rate.
    """

    name: str
    metric: Literal["error_mm"] = "error_mm"
    median: Number
    max: Number
    found: Count
    expected: Count
    spurious: Count
    absent: Count = 0
    """Points that are absent in the references; `spurious` of them were predicted."""
    values: dict[str, Number] = Field(default_factory=dict)
    sdr: dict[str, Number]


class ClassRow(Row):
    """One metric of the positive class, of one class against the rest, or of "all"; means over the runs."""

    name: str
    metric: str


class CasePoints(Model):
    """Landmarks of one case: errors in mm of those found, and names of the missed and spurious ones."""

    errors_mm: dict[str, Number]
    missed: tuple[str, ...]
    spurious: tuple[str, ...]
    absent: tuple[str, ...] = ()
    """Absent in the reference, spurious or not."""


class NnunetCase(Model):
    """One case in nnU-Net's form: label or region -> metric -> value."""

    metrics: dict[str, dict[str, int | Number]]
    prediction_file: str
    reference_file: str


class SegmentationSettings(Model):
    """The conventions behind the numbers."""

    protocol: str
    metrics: tuple[Annotated[str, AfterValidator(_known_metric)], ...]
    rules: str
    source: str = ""
    miss: Finite = 0.0
    """Value of an unscored case in metrics for which higher is better."""
    confidence: Fraction
    labels_from: str
    mambamed: str
    numpy: str
    scipy: str
    computed_with: str
    other_files: tuple[str, ...] = ()
    """One line per folder of predictions or references with files that were not read."""


class LandmarksSettings(Model):
    predictions: str
    references: str
    sdr_mm: tuple[Positive, ...]
    confidence: Fraction
    mambamed: str
    other_files: tuple[str, ...] = ()
    """One line per folder of predictions or references with files that were not read."""


class ClassificationSettings(Model):
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    positive: str | None
    thresholds: dict[str, Fraction | None]
    calibrated: dict[str, bool]
    reference: str
    predictions: str = ""
    references: str = ""
    confidence: Fraction
    mambamed: str
    other_files: tuple[str, ...] = ()
    """One line per folder of predictions or references with files that were not read."""


class Summary(Document):
    """What every `summary.json` has; `faults` has one line per case that could not be scored."""

    REMEDY: ClassVar[str] = "Run evaluate again."

    faults: tuple[str, ...]

    def means(self, metric: str) -> dict[str, float]:
        """Region, landmark or class ("all" for all of them) -> mean of a metric."""
        rows: Sequence[Any] = vars(self)["summaries"]
        return {row.name: row.mean for row in rows if row.metric == metric}


class SegmentationSummary(Summary):
    task: Literal["segmentation"] = "segmentation"
    foreground_mean: dict[str, int | Number]
    mean: dict[str, dict[str, int | Number]]
    metric_per_case: tuple[NnunetCase, ...]
    regions: dict[str, tuple[Count, ...]]
    settings: SegmentationSettings
    summaries: tuple[RegionRow, ...]


class LandmarksSummary(Summary):
    task: Literal["landmarks"] = "landmarks"
    settings: LandmarksSettings
    summaries: tuple[LandmarkRow, ...]
    overall: LandmarkRow
    cases: dict[str, CasePoints]


class ClassificationSummary(Summary):
    task: Literal["classification"] = "classification"
    settings: ClassificationSettings
    summaries: tuple[ClassRow, ...]
    runs: dict[str, dict[str, int | Number | Interval | tuple[tuple[Count, ...], ...]]]
    """Table of probabilities -> every metric, the counts behind them, the confusion matrix, and the number of
    missing cases, which have no prediction."""


AnySummary = SegmentationSummary | LandmarksSummary | ClassificationSummary

SUMMARIES: dict[str, type[AnySummary]] = {
    "segmentation": SegmentationSummary,
    "landmarks": LandmarksSummary,
    "classification": ClassificationSummary,
}


def read_summary(path: Path) -> AnySummary:
    """Read the `summary.json` of an evaluation of any task.

    Raises:
        DatasetError: not such a file, or one with faults; one line each.
    """
    content = read_json(path)
    task = content.get("task", _task_in_0_1_0(content)) if isinstance(content, Mapping) else None
    model = SUMMARIES.get(task) if isinstance(task, str) else None
    if model is None:
        raise DatasetError(
            f"{path}: task: expected one of {', '.join(SUMMARIES)}, got {task!r}. Choose a folder that "
            "mambamed evaluate -o or mambamed train wrote."
        )
    return model.checked(content, path)


def _task_in_0_1_0(content: Mapping[str, Any]) -> str | None:
    """The task of a file of mambamed 0.1.0, which did not record it."""
    settings = content.get("settings")
    known = {"metrics": "segmentation", "sdr_mm": "landmarks", "classes": "classification"}
    keys = settings if isinstance(settings, Mapping) else {}
    return next((task for key, task in known.items() if key in keys), None)


class PairedRecord(Model):
    """See `metrics.statistics.PairedTest`."""

    pairs: Count
    mean_difference: Number
    interval: Interval
    wilcoxon_p: Number
    permutation_p: Number


class DifferenceRecord(Model):
    """See `evaluation.compare.Difference`."""

    region: str
    metric: str
    first: str
    second: str
    means: Interval
    test: PairedRecord
    delong_p: Number
    wilcoxon_holm: Number
    permutation_holm: Number
    delong_holm: Number


class ComparisonFile(Document):
    """comparison.json of `compare`."""

    differences: tuple[DifferenceRecord, ...]
