"""Landmarks: the distance of each to its reference, and how often it is small enough.

A metric is a function and a line of `POINT_METRICS`. A landmark that was missed is a failure at every
distance; one that was placed although the reference has none is counted as spurious. Neither is dropped:
every mean states over how many points it is.
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
    """A line of `POINT_METRICS`.

    Attributes:
        function: radial errors in mm of the points that were found, one at least -> value.
        title: heading in tables; "": no column of its own.
    """

    function: Callable[[NDArray[np.float64]], float]
    title: str = ""


# Column of summary.csv -> metric. The first two are shown as mean ± SD, with the interval of the mean.
POINT_METRICS = {
    "mre_mm": PointMetric(lambda errors: float(errors.mean()), "MRE [mm]"),
    "sd_mm": PointMetric(lambda errors: float(errors.std(ddof=1)) if len(errors) > 1 else math.nan),
    "median_mm": PointMetric(lambda errors: float(np.median(errors)), "median"),
    "max_mm": PointMetric(lambda errors: float(errors.max()), "max"),
}


@dataclass(frozen=True)
class PointScores:
    """The landmarks of one case.

    Attributes:
        errors_mm: landmark -> radial error of those that both have.
        missed: landmarks of the reference that were not found.
        spurious: landmarks that were placed and are not in the reference.
    """

    errors_mm: Mapping[str, float]
    missed: tuple[str, ...]
    spurious: tuple[str, ...]


@dataclass(frozen=True)
class LandmarkSummary:
    """One landmark, or all of them, over the cases.

    Attributes:
        name: of the landmark.
        expected: points of the references.
        found: how many of them were found.
        spurious: points placed although the reference has none.
        values: every metric of `POINT_METRICS`, over the points found; NaN if there are none.
        sdr: distance in mm -> fraction of the expected points found within it.
    """

    name: str
    expected: int
    found: int
    spurious: int
    values: Mapping[str, float]
    sdr: Mapping[float, float]


def score_points(reference: Mapping[str, Point], prediction: Mapping[str, Point]) -> PointScores:
    """Match landmarks by name.

    Args:
        reference, prediction: landmark -> world position, mm, RAS+; absent or NaN: not there.

    >>> scores = score_points({"a": (0, 0, 0), "b": (1, 1, 1)}, {"a": (3, 0, 4), "c": (0, 0, 0)})
    >>> scores.errors_mm, scores.missed, scores.spurious
    ({'a': 5.0}, ('b',), ('c',))
    """
    there = {name: point for name, point in reference.items() if _is_placed(point)}
    placed = {name: point for name, point in prediction.items() if _is_placed(point)}
    errors = {name: math.dist(point, placed[name]) for name, point in there.items() if name in placed}
    missed = tuple(name for name in there if name not in placed)
    return PointScores(errors, missed, tuple(name for name in placed if name not in there))


def summarize_points(
    cases: Sequence[PointScores],
    names: Sequence[str],
    distances_mm: Sequence[float] = SDR_DISTANCES_MM,
) -> list[LandmarkSummary]:
    """Every landmark over the cases, and "all" of them last.

    Args:
        cases: from `score_points`.
        names: the landmarks, in the order of the table.
        distances_mm: of the success detection rate; a point at just the distance is a success.
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
    expected, some = len(errors) + missed, len(errors) > 0
    return LandmarkSummary(
        title,
        expected,
        len(errors),
        spurious,
        values={name: m.function(errors) if some else math.nan for name, m in POINT_METRICS.items()},
        sdr={d: float(np.sum(errors <= d)) / expected if expected else math.nan for d in distances_mm},
    )


def _is_placed(point: Point) -> bool:
    return all(math.isfinite(coordinate) for coordinate in point)
