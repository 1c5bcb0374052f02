"""A table as plain data, for whoever prints it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Headers and rows of text.

    Attributes:
        title: one line.
        headers: a column each; the first holds names.
        rows: cells, as many as headers.
        notes: what a reader must know to trust the numbers, a line each.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def shown(value: float) -> str:
    """A number with four significant digits, as a person reads it.

    >>> shown(0.876543), shown(12.3456), shown(float("nan")), shown(0.0)
    ('0.8765', '12.35', '-', '0')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.4g}"
