"""Distances and angles between landmarks, in mm and degrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """A distance in mm or an angle in degrees; NaN if a landmark is absent, or two coincide."""

    value: float
    unit: str  # "mm" or "degrees"


def measure(points: Mapping[str, Sequence[float]], names: Sequence[str]) -> Measure:
    """A distance or an angle between landmarks.

    Args:
        points: landmark -> world position, mm; may be absent or NaN.
        names: two: their distance. Three: the angle at the second. Four: the angle between the lines from
            the first to the second and from the third to the fourth, 0 to 180. Other numbers: ValueError.

    >>> square = {"a": (0, 0, 0), "b": (3, 0, 0), "c": (3, 4, 0)}
    >>> measure(square, ("a", "c")), measure(square, ("a", "b", "c"))
    (Measure(value=5.0, unit='mm'), Measure(value=90.0, unit='degrees'))
    """
    if not 2 <= len(names) <= 4:
        raise ValueError(f"expected two, three or four landmarks, got {len(names)}.")
    unit = "mm" if len(names) == 2 else "degrees"
    places = [np.asarray(points.get(name, (math.nan,) * 3), float) for name in names]
    if len(places) == 2:
        return Measure(float(np.linalg.norm(places[1] - places[0])), unit)
    if len(places) == 3:
        first, second = places[0] - places[1], places[2] - places[1]
    else:
        first, second = places[1] - places[0], places[3] - places[2]
    across, along = np.linalg.norm(np.cross(first, second)), float(first @ second)
    if across == 0 and along == 0:
        return Measure(math.nan, unit)
    return Measure(float(np.degrees(np.arctan2(across, along))), unit)  # exact near 0 and 180, unlike arccos
