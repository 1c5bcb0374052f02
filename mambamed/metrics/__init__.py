"""Metric definitions, on arrays: NumPy and SciPy, with numba if it is installed.

Libraries define "HD95" differently, so the name of a metric holds its convention: `hd95:max-directed`.
`parse_metric` fills in the defaults.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["counts", "voxels", "areas", "lesions"]


@dataclass(frozen=True)
class MetricKind:
    """A row of `METRICS`."""

    target: str  # the function that computes it, `module:function`
    source: Source  # what that function reads
    unit: str  # "" for a fraction
    better: Literal["higher", "lower", ""]  # "" if neither is
    title: str  # heading in tables

    def function(self) -> Callable[..., float]:
        """The function, imported."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


_OVERLAP, _SURFACE, _LESION = (f"mambamed.metrics.{name}" for name in ("overlap", "surface", "lesion"))

METRICS = {
    "dice": MetricKind(f"{_OVERLAP}:dice", "counts", "", "higher", "Dice"),
    "iou": MetricKind(f"{_OVERLAP}:iou", "counts", "", "higher", "IoU"),
    "precision": MetricKind(f"{_OVERLAP}:precision", "counts", "", "higher", "Precision"),
    "recall": MetricKind(f"{_OVERLAP}:recall", "counts", "", "higher", "Recall"),
    "specificity": MetricKind(f"{_OVERLAP}:specificity", "counts", "", "", "Specificity"),
    "volume_reference": MetricKind(f"{_OVERLAP}:volume_reference_ml", "counts", "ml", "", "Reference volume"),
    "volume_prediction": MetricKind(
        f"{_OVERLAP}:volume_prediction_ml", "counts", "ml", "", "Predicted volume"
    ),
    "volume_difference": MetricKind(
        f"{_OVERLAP}:volume_difference_ml", "counts", "ml", "", "Volume difference"
    ),
    "volume_difference_relative": MetricKind(
        f"{_OVERLAP}:volume_difference_relative", "counts", "", "", "Relative volume difference"
    ),
    "hd": MetricKind(f"{_SURFACE}:hausdorff", "voxels", "mm", "lower", "HD"),
    "hd95:max-directed": MetricKind(f"{_SURFACE}:hd_max_directed", "voxels", "mm", "lower", "HD95"),
    "hd95:pooled": MetricKind(f"{_SURFACE}:hd_pooled", "voxels", "mm", "lower", "HD95"),
    "hd95:surface-area": MetricKind(f"{_SURFACE}:hd_surface_area", "areas", "mm", "lower", "HD95"),
    "assd:pooled": MetricKind(f"{_SURFACE}:assd_pooled", "voxels", "mm", "lower", "ASSD"),
    "assd:mean-directed": MetricKind(f"{_SURFACE}:assd_mean_directed", "voxels", "mm", "lower", "ASSD"),
    "nsd:surface-area": MetricKind(f"{_SURFACE}:nsd_surface_area", "areas", "", "higher", "NSD"),
    "nsd:voxel": MetricKind(f"{_SURFACE}:nsd_voxel", "voxels", "", "higher", "NSD"),
    "lesion_dice": MetricKind(f"{_LESION}:lesion_dice", "lesions", "", "higher", "Lesion-wise Dice"),
    "lesion_hd95": MetricKind(f"{_LESION}:lesion_hd95", "lesions", "mm", "lower", "Lesion-wise HD95"),
    "lesion_f1": MetricKind(f"{_LESION}:lesion_f1", "lesions", "", "higher", "Lesion F1"),
}

_DEFAULT_CONVENTION = {"hd95": "max-directed", "assd": "pooled", "nsd": "surface-area"}


@dataclass(frozen=True)
class Metric:
    """A metric with its convention and tolerance."""

    kind: str  # its key in `METRICS`
    tolerance_mm: float | None = None  # of NSD

    @property
    def name(self) -> str:
        """In tables and file headers, e.g. `dice`, `hd95:pooled`, `nsd@1:surface-area`."""
        if self.tolerance_mm is None:
            return self.kind
        base, _, convention = self.kind.partition(":")
        return f"{base}@{self.tolerance_mm:g}:{convention}"

    @property
    def title(self) -> str:
        """In reports, e.g. `HD95`, `NSD at 1 mm`."""
        title = METRICS[self.kind].title
        return title if self.tolerance_mm is None else f"{title} at {self.tolerance_mm:g} mm"

    @property
    def convention(self) -> str:
        """The part of the name after the colon; "" if there is only one convention."""
        return self.kind.partition(":")[2]


def parse_metric(text: str, hd95: str = _DEFAULT_CONVENTION["hd95"]) -> Metric:
    """Parse a metric's name and fill in the default convention if it has none.

    `hd95` is the convention of a bare "hd95". Light enough for the recipe schema: imports neither NumPy nor
    torch. Raises ValueError for an unknown metric; the message suggests the closest name and lists all.

    >>> parse_metric("hd95").name, parse_metric("HD95", hd95="pooled").name, parse_metric("nsd@1").name
    ('hd95:max-directed', 'hd95:pooled', 'nsd@1:surface-area')
    """
    match = re.fullmatch(r"([a-z0-9_]+)(?:@(\d+(?:\.\d+)?))?(?::([a-z-]+))?", text.strip().lower())
    base, tolerance, convention = match.groups() if match else ("", None, None)
    convention = convention or (hd95 if base == "hd95" else _DEFAULT_CONVENTION.get(base, ""))
    kind = f"{base}:{convention}" if convention else base
    if kind not in METRICS:
        close = difflib.get_close_matches(text.strip().lower(), METRICS, n=1)
        suggestion = f" - did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"unknown metric {text!r}{suggestion} Known metrics: {', '.join(METRICS)}. "
            "For nsd, append a tolerance in mm, e.g. nsd@1."
        )
    if base == "nsd" and tolerance is None:
        raise ValueError(f"metric {text!r} needs a tolerance in mm. Append it, e.g. nsd@1.")
    if base != "nsd" and tolerance is not None:
        raise ValueError(f"metric {text!r} takes no tolerance; only nsd does. Remove @{tolerance}.")
    return Metric(kind, float(tolerance) if tolerance else None)


def parse_metrics(texts: Sequence[str], hd95: str = _DEFAULT_CONVENTION["hd95"]) -> tuple[Metric, ...]:
    """Parse several metrics; duplicates are dropped and the order is kept.

    Raises ValueError for an unknown metric, or if there is none.
    """
    if not texts:
        raise ValueError("no metric given. Name at least one, e.g. dice.")
    return tuple(dict.fromkeys(parse_metric(text, hd95) for text in texts))
