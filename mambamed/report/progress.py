"""The training curves as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of

_AVERAGED = 50  # the moving mean averages over one fiftieth of the epochs
_MARGIN = 0.06  # above and below the curves, of their range
_LEAST_RANGE = {True: 0.01, False: 0.1}  # of a panel whose curves are constant: of scores, of errors in mm
_WIDE = 5  # errors whose largest exceeds this many times the smallest are drawn on a logarithmic axis
_LEGEND_LINES = 20  # next to the curves; log.csv has the names of more structures
_LEGEND_LINES_INSIDE = 5
_COLORS_OF_THE_CYCLE = 8
_WORDS = {"dice": "Dice", "error_mm": "error [mm]", "auc": "AUC"}


@plain_style()
def draw_progress(
    history: Sequence[Mapping[str, Any]], path: Path, score_name: str = "dice", higher_is_better: bool = True
) -> None:
    """Draw losses, the score of every structure with its moving mean, learning rate and seconds per epoch.

    Args:
        history: the rows of log.csv: epoch, loss, validation_loss, <score_name>, <score_name>_<structure>,
            learning_rate, seconds.
        path: a .png file, written atomically.
        score_name: prefix of the scores' columns.
        higher_is_better: scores lie between 0 and 1; else they are errors, on a logarithmic axis if their
            range is wide.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(figsize=(9, 9), dpi=80)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 3, 1.4]})
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 3 else None

    for key, label in (("loss", "training"), ("validation_loss", "validation patches")):
        top.plot(epochs, [row[key] for row in history], label=label, marker=marker)
    top.set_ylabel("loss")
    top.legend(frameon=False)

    names = [key for key in history[0] if key.startswith(f"{score_name}_")]
    colors = colormaps["tab20" if len(names) > _COLORS_OF_THE_CYCLE else "tab10"].colors  # type: ignore[attr-defined]
    for number, key in enumerate(names):
        color = colors[(number + 2) % len(colors)]  # the first two are those of the losses
        values = [row[key] for row in history]
        middle.plot(epochs, values, color=color, alpha=0.35, marker=marker)
        middle.plot(epochs, moving_mean(values), color=color, label=key.removeprefix(f"{score_name}_"))
    if not names:
        middle.plot(epochs, [row[score_name] for row in history], color="black", alpha=0.35, marker=marker)
    middle.plot(epochs, moving_mean([row[score_name] for row in history]), color="black", label="mean", lw=2)
    middle.set_ylabel(f"{_WORDS.get(score_name, score_name)} of validation patches\n(thick: moving mean)")
    _fit(middle, [row[key] for row in history for key in (score_name, *names)], higher_is_better)
    if len(names) <= _LEGEND_LINES_INSIDE:
        middle.legend(frameon=False, loc="lower right" if higher_is_better else "upper right")
    elif len(names) <= _LEGEND_LINES:
        middle.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small")

    bottom.plot(epochs, [row["learning_rate"] for row in history], color="C0", marker=marker)
    bottom.set_ylabel("learning rate", color="C0")
    bottom.set_yscale("log")
    seconds = bottom.twinx()
    seconds.plot(epochs, [row["seconds"] for row in history], color="C1", marker=marker)
    seconds.set_ylabel("s per epoch", color="C1")
    seconds.set_ylim(bottom=0)
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
    write_bytes(path, png_of(figure))


def _fit(axes: Any, values: Sequence[float], higher_is_better: bool) -> None:
    """Fit the axis to the curves: all of them are visible, and use the height of the panel."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    known = [value for value in values if math.isfinite(value)]
    if not known:
        return
    low, high = min(known), max(known)
    if not higher_is_better and 0 < low < high / _WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / (1 + _MARGIN), high * (1 + _MARGIN))
        return
    extent = max(high - low, _LEAST_RANGE[higher_is_better])
    axes.set_ylim(low - _MARGIN * extent, high + _MARGIN * extent)


def moving_mean(values: Sequence[float]) -> list[float]:
    """Exponential moving mean, NaN skipped; it starts at the first value and has no bias towards it.

    Its span grows with the number of values, so that the mean of a short training follows the curve.
    Source: the bias correction of Kingma & Ba 2015, arXiv:1412.6980, section 3.

    >>> moving_mean([1.0, 0.0, float("nan")])
    [1.0, 0.0, 0.0]
    """
    keep = 1 - 2 / (max(1.0, len(values) / _AVERAGED) + 1)
    means, total, weight = [], 0.0, 0.0
    for value in values:
        if not math.isnan(value):
            total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight if weight else math.nan)
    return means
