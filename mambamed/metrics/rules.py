"""Scores of empty masks, and the conventions of papers and challenges, by name.

A region can be absent from reference and prediction (`empty/empty`), from the prediction (`missed`) or from
the reference (`invented`). For each, a rule gives the value of the fractions (Dice, NSD, ...) and of the
distances. NaN: undefined, excluded from the mean, and counted in the tables; infinity: undefined too, and the
mean is also given with a penalty in its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from mambamed.metrics.lesion import LesionRules

Presence = Literal["present", "empty/empty", "missed", "invented"]
_NAN, _INF = math.nan, math.inf


@dataclass(frozen=True)
class Rules:
    """Conventions for the scores of a segmentation."""

    name: str  # of the protocol, printed with the result
    hd95: str = "max-directed"  # convention of a bare `hd95`
    # values of a fraction, and of a distance in mm, for empty/empty, missed, invented
    fractions: tuple[float, float, float] = (_NAN, 0.0, 0.0)
    distances: tuple[float, float, float] = (_NAN, _INF, _INF)
    penalty_mm: float | None = None  # replaces infinity in the penalized mean; None: the image's diagonal
    ignore_spacing: bool = False  # treat every voxel as 1 x 1 x 1 mm
    lesions: LesionRules = field(default_factory=LesionRules)
    metrics: tuple[str, ...] = ("dice", "hd95")  # computed if the user names none
    source: str = ""  # of the conventions

    def of_empty(self, presence: Presence, better: str) -> float | None:
        """The value if a mask is empty; None if it is computed like that of other masks."""
        if presence == "present" or not better:
            return None
        values = self.fractions if better == "higher" else self.distances
        return values[("empty/empty", "missed", "invented").index(presence)]

    def describe(self) -> str:
        """One line that describes the conventions of the scores."""

        def shown(value: float, unit: str = "") -> str:
            return "left out" if math.isnan(value) else f"{value:g}{unit}"

        penalty = "the image diagonal" if self.penalty_mm is None else f"{self.penalty_mm:g} mm"
        both, missed, invented = (
            f"Dice {shown(fraction)}, distance {shown(distance, ' mm')}"
            for fraction, distance in zip(self.fractions, self.distances, strict=True)
        )
        one = f"one empty: {missed}" if missed == invented else f"missed: {missed}; invented: {invented}"
        parts = [f"empty/empty: {both}", one]
        if any(math.isinf(distance) for distance in self.distances):
            parts.append(f"penalty for an infinite distance: {penalty}")
        if self.ignore_spacing:
            parts.append("spacing ignored (1 mm), as in the source")
        return "; ".join(parts)


DEFAULT = Rules("mambamed", source="docs/metrics.md")
_BRATS = replace(
    DEFAULT, fractions=(1.0, 0.0, 0.0), distances=(0.0, _INF, _INF), hd95="surface-area", penalty_mm=374.0
)
_BRATS_2023 = replace(
    _BRATS,
    name="brats2023",
    metrics=("lesion_dice", "lesion_hd95", "dice", "hd95", "recall", "specificity"),
    source="official script of BraTS 2023, github.com/rachitsaluja/BraTS-2023-Metrics",
)

PROTOCOLS = {
    "mambamed": DEFAULT,
    # Glioma; SSA and PED use the same numbers.
    "brats2023": _BRATS_2023,
    "brats2023-men": replace(_BRATS_2023, name="brats2023-men", lesions=LesionRules(dilations=1)),
    "brats2023-met": replace(
        _BRATS_2023, name="brats2023-met", lesions=LesionRules(dilations=1, smallest_mm3=2.0)
    ),
    "brats-legacy": replace(
        _BRATS,
        name="brats-legacy",
        distances=(0.0, 373.1287, 373.1287),
        penalty_mm=373.1287,
        metrics=("dice", "hd95", "recall", "specificity"),
        source="BraTS up to 2022: diagonal of 240 x 240 x 155 mm for a miss",
    ),
    "segmamba": replace(
        DEFAULT,
        name="segmamba",
        hd95="pooled",
        fractions=(0.0, 0.0, 0.0),
        distances=(50.0, 50.0, 50.0),
        penalty_mm=50.0,
        ignore_spacing=True,
        source="SegMamba's 5_compute_metrics.py: MedPy, any empty mask 0 and 50",
    ),
    "tamingmambas": replace(
        DEFAULT,
        name="tamingmambas",
        hd95="pooled",
        fractions=(1.0, 0.0, 0.0),
        distances=(0.0, 0.0, 0.0),
        penalty_mm=0.0,
        ignore_spacing=True,
        source="TamingMambas' evaluation/*/eval.py: MedPy, a complete miss has HD95 0",
    ),
    "nnunet": replace(
        DEFAULT,
        name="nnunet",
        metrics=("dice", "iou"),
        source="nnU-Net v2 evaluate_predictions: NaN where both are empty, and nanmean",
    ),
}

EMPTY_RULES = {
    "exclude": ((_NAN, 0.0, 0.0), (_NAN, _INF, _INF)),
    "brats": ((1.0, 0.0, 0.0), (0.0, _INF, _INF)),
}


def rules_for(
    protocol: str | None = None,
    empty: str | None = None,
    hd95: str | None = None,
    penalty_mm: float | None = None,
) -> Rules:
    """The rules of a protocol of `PROTOCOLS`, or our own, with single choices changed.

    `empty` and `hd95` apply to our own rules only. Raises ValueError for an unknown name.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}. Known protocols: {', '.join(PROTOCOLS)}.")
    if empty is not None and empty not in EMPTY_RULES:
        raise ValueError(f"unknown rule {empty!r} for empty masks. Known rules: {', '.join(EMPTY_RULES)}.")
    rules = PROTOCOLS[protocol or "mambamed"]
    if empty is not None and protocol is None:
        fractions, distances = EMPTY_RULES[empty]
        rules = replace(rules, fractions=fractions, distances=distances)
    if hd95 is not None and protocol is None:
        rules = replace(rules, hd95=hd95)
    return rules if penalty_mm is None else replace(rules, penalty_mm=penalty_mm)
