"""Plots as SVG in the colors of the page: distributions (dots of cases, quartiles as a box), curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from mambamed.report.planes import color_of

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 760, 130, 70, 54, 8, 40
_LETTER, _WIDEST_NAMES = 7.4, 330  # width of a letter of a name; of all names
_SQUARE, _ROC_LEFT, _ROC_LINE = 300, 56, 20
_JITTER = 15


def distribution_plot(
    title: str, unit: str, groups: Mapping[str, Sequence[tuple[str, float]]], higher_is_better: bool
) -> str:
    """A strip of dots and a box for each group, as one `<svg>` element; all text is escaped.

    Args:
        unit: of the axis; "" for a fraction.
        groups: region -> pairs of case and value; NaN is skipped, infinity is drawn at the right border.
        higher_is_better: the metric is a fraction; its axis ends at 1.
    """
    values = [v for rows in groups.values() for _, v in rows if math.isfinite(v)]
    low, high, step = _axis(values, higher_is_better)
    height = _TOP + _ROW * len(groups) + _BOTTOM
    left = round(min(max(_LEFT, 20 + _LETTER * max(map(len, groups), default=0)), _WIDEST_NAMES))
    inner = _WIDTH - left - _RIGHT

    def x(value: float) -> float:
        return left + inner * (value - low) / (high - low)

    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)} of each case by region">'
    ]
    bottom = height - _BOTTOM
    for k in range(round((high - low) / step) + 1):
        tick = low + k * step
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}">{tick:.4g}</text>')
    axis_title = f"{title} [{unit}]" if unit else title
    parts.append(
        f'<text class="axis" x="{left + inner / 2:.0f}" y="{height - 4}">{escape(axis_title)}</text>'
    )
    for row, (name, pairs) in enumerate(groups.items()):
        middle = _TOP + _ROW * (row + 0.5)
        parts.append(f'<text class="name" x="{left - 12}" y="{middle + 4:.1f}">{escape(name)}</text>')
        finite = sorted(v for _, v in pairs if math.isfinite(v))
        if finite:
            parts += _box([x(_quantile(finite, q)) for q in (0.25, 0.5, 0.75)], middle)
        for number, (case, value) in enumerate(pairs):
            if math.isnan(value):
                continue
            # Jitter in a fixed pattern (golden ratio), so that the page is reproducible.
            y = middle + _JITTER * (2 * ((number * 0.6180339887) % 1) - 1)
            place = x(value) if math.isfinite(value) else _WIDTH - _RIGHT / 2
            kind = "dot" if math.isfinite(value) else "dot infinite"
            told = f"{value:.4g}" if math.isfinite(value) else "infinite: one mask is empty"
            parts.append(
                f'<circle class="{kind}" cx="{place:.1f}" cy="{y:.1f}" r="3.2">'
                f"<title>{escape(case)}: {told}</title></circle>"
            )
    if any(math.isinf(v) for rows in groups.values() for _, v in rows):
        parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT / 2:.0f}" y="{bottom + 16}">∞</text>')
    return "".join([*parts, "</svg>"])


def roc_plot(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """ROC curves as one `<svg>` element with a legend; all text is escaped.

    Args:
        curves: name -> false positive rates and true positive rates, from 0 to 1.
    """
    height, bottom = _SQUARE + _TOP + _BOTTOM, _SQUARE + _TOP

    def place(rate: float, other: float) -> str:
        return f"{_ROC_LEFT + _SQUARE * rate:.1f},{bottom - _SQUARE * other:.1f}"

    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="ROC curves">']
    right = _ROC_LEFT + _SQUARE
    for k in range(6):
        x, y = _ROC_LEFT + _SQUARE * k / 5, bottom - _SQUARE * k / 5
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<line class="grid" x1="{_ROC_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}">{k / 5:g}</text>')
        parts.append(f'<text class="tick" x="{_ROC_LEFT - 14}" y="{y + 4:.1f}">{k / 5:g}</text>')
    middle = _ROC_LEFT + _SQUARE / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 4}">1 - specificity</text>')
    turned = f"12,{_TOP + _SQUARE / 2}"
    parts.append(f'<text class="axis" transform="translate({turned}) rotate(-90)">sensitivity</text>')
    parts.append(f'<polyline class="chance" points="{place(0, 0)} {place(1, 1)}"/>')
    for number, (name, (false, true)) in enumerate(curves.items()):
        points = " ".join(place(x, y) for x, y in zip(false, true, strict=True))
        color, y = color_of(number), _TOP + 14 + _ROC_LINE * number
        title = f"<title>{escape(name)}</title>"
        parts.append(f'<polyline class="curve" stroke="{color}" points="{points}">{title}</polyline>')
        start = right + 24
        parts.append(
            f'<line class="curve" stroke="{color}" x1="{start}" x2="{start + 22}" y1="{y - 4}" y2="{y - 4}"/>'
        )
        parts.append(f'<text class="entry" x="{start + 30}" y="{y}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _box(quartiles: Sequence[float], middle: float) -> list[str]:
    low, median, high = quartiles
    top, bottom, width = middle - 19, middle + 19, max(high - low, 1)
    return [
        f'<rect class="box" x="{low:.1f}" y="{top:.1f}" width="{width:.1f}" height="38"/>',
        f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>',
    ]


def _axis(values: Sequence[float], higher_is_better: bool) -> tuple[float, float, float]:
    """Low end, high end and step of an axis with four to eight round ticks."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if higher_is_better:
        high = max(high, 1.0)
        low = min(low, 0.9)
    else:
        low = min(low, 0.0)
        high = max(high, low + 1e-6)
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: (s < rough * 0.999, s))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
