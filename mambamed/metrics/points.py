"""Landmarks: the distance of each to its reference, and how often it is small enough.

A metric is a function and a row of `POINT_METRICS`. A missed landmark is a failure at every distance; a
predicted one that is absent in the reference is counted as spurious. Landmarks that the reference does not
name are not annotated, and not scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = Sequence[float]

SDR_DISTANCES_MM = (2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True)
class PointMetric:
    """A row of `POINT_METRICS`."""

    function: Callable[[NDArray[np.float64]], float]  # radial errors, mm, of the points found, at least one
    title: str = ""  # heading in tables; "": no column of its own


# Column of summary.csv -> metric. The first two are shown as mean ± SD, with the interval of the mean.
POINT_METRICS = {
    "mre_mm": PointMetric(lambda errors: float(errors.mean()), "MRE [mm]"),
    "sd_mm": PointMetric(lambda errors: float(errors.std(ddof=1)) if len(errors) > 1 else math.nan),
    "median_mm": PointMetric(lambda errors: float(np.median(errors)), "median"),
    "max_mm": PointMetric(lambda errors: float(errors.max()), "max"),
}


@dataclass(frozen=True)
class PointScores:
    """The landmarks of one case."""

    errors_mm: Mapping[str, float]  # landmark -> radial error, if reference and prediction have it
    missed: tuple[str, ...]  # in the reference, but not found
    spurious: tuple[str, ...]  # predicted, but absent in the reference
    absent: tuple[str, ...] = ()  # in the reference, spurious or not


@dataclass(frozen=True)
class LandmarkSummary:
    """One landmark, or all of them, over the cases."""

    name: str
    expected: int  # points of the references
    found: int
    spurious: int  # predicted points that are absent in the reference
    absent: int  # points that are absent in the references
    values: Mapping[str, float]  # every metric of `POINT_METRICS` over the points found; NaN if none
    sdr: Mapping[float, float]  # distance in mm -> fraction of the expected points found within it


def score_points(
    reference: Mapping[str, Point | None], prediction: Mapping[str, Point | None]
) -> PointScores:
    """Match landmarks by name; world positions in mm, RAS+, are None or NaN if absent.

    >>> truth = {"a": (0, 0, 0), "b": (1, 1, 1), "c": None}
    >>> scores = score_points(truth, {"a": (3, 0, 4), "c": (0, 0, 0), "unknown": (1, 0, 0)})
    >>> scores.errors_mm, scores.missed, scores.spurious
    ({'a': 5.0}, ('b',), ('c',))
    """
    there = {name: point for name, point in reference.items() if point and _is_placed(point)}
    placed = {name: point for name, point in prediction.items() if point and _is_placed(point)}
    errors = {name: math.dist(point, placed[name]) for name, point in there.items() if name in placed}
    missed = tuple(name for name in there if name not in placed)
    absent = tuple(name for name in reference if name not in there)
    return PointScores(errors, missed, tuple(name for name in placed if name in absent), absent)


def summarize_points(
    cases: Sequence[PointScores], names: Sequence[str], distances_mm: Sequence[float] = SDR_DISTANCES_MM
) -> list[LandmarkSummary]:
    """One summary per name, in this order, and "all" of them last.

    A point at exactly one of `distances_mm` counts as a success in the success detection rate.
    """
    return [_summary(name, cases, (name,), distances_mm) for name in names] + [
        _summary("all", cases, names, distances_mm)
    ]


def _summary(
    title: str, cases: Sequence[PointScores], names: Sequence[str], distances_mm: Sequence[float]
) -> LandmarkSummary:
    wanted = set(names)
    errors = np.array([e for case in cases for name, e in case.errors_mm.items() if name in wanted])
    missed = sum(name in wanted for case in cases for name in case.missed)
    spurious = sum(name in wanted for case in cases for name in case.spurious)
    absent = sum(name in wanted for case in cases for name in case.absent)
    expected, some = len(errors) + missed, len(errors) > 0
    return LandmarkSummary(
        title,
        expected,
        len(errors),
        spurious,
        absent,
        values={name: m.function(errors) if some else math.nan for name, m in POINT_METRICS.items()},
        sdr={d: float(np.sum(errors <= d)) / expected if expected else math.nan for d in distances_mm},
    )


def _is_placed(point: Point) -> bool:
    return all(math.isfinite(coordinate) for coordinate in point)
