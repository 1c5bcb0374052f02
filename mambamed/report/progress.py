"""The training curves as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of

_SMOOTHING = 0.9
_LEGEND_LINES = 20  # next to the curves; log.csv has the names of more structures
_LEGEND_LINES_INSIDE = 5
_COLORS_OF_THE_CYCLE = 8
_WORDS = {"dice": "Dice", "error_mm": "error, mm"}


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
        higher_is_better: scores lie between 0 and 1; else they are errors, drawn from 0 up.
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
    middle.plot(epochs, moving_mean([row[score_name] for row in history]), color="black", label="mean", lw=2)
    middle.set_ylabel(f"{_WORDS.get(score_name, score_name)} of validation patches\n(thick: moving mean)")
    middle.set_ylim(0, 1 if higher_is_better else None)
    if len(names) <= _LEGEND_LINES_INSIDE:
        middle.legend(frameon=False, loc="lower right" if higher_is_better else "upper right")
    elif len(names) <= _LEGEND_LINES:
        middle.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small")

    bottom.plot(epochs, [row["learning_rate"] for row in history], color="C0", marker=marker)
    bottom.set_ylabel("learning rate", color="C0")
    bottom.set_yscale("log")
    seconds = bottom.twinx()
    seconds.plot(epochs, [row["seconds"] for row in history], color="C1", marker=marker)
    seconds.set_ylabel("s an epoch", color="C1")
    seconds.set_ylim(bottom=0)
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
    write_bytes(path, png_of(figure))


def moving_mean(values: Sequence[float]) -> list[float]:
    """Exponential moving mean, NaN skipped; it starts at the first value.

    >>> moving_mean([1.0, 0.0, float("nan")])
    [1.0, 0.9, 0.9]
    """
    means, mean = [], math.nan
    for value in values:
        if not math.isnan(value):
            mean = value if math.isnan(mean) else _SMOOTHING * mean + (1 - _SMOOTHING) * value
        means.append(mean)
    return means
