"""The curves of a training, as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.io.atomic import write_bytes

_SMOOTHING = 0.9


def draw_progress(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw losses, Dice of every structure with its moving mean, learning rate and seconds per epoch.

    Args:
        history: the rows of log.csv: epoch, loss, validation_loss, dice, dice_<name>, learning_rate, seconds.
        path: a .png file, written atomically.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 3, 1.4]})
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 3 else None

    for key, label in (("loss", "training"), ("validation_loss", "validation patches")):
        top.plot(epochs, [row[key] for row in history], label=label, marker=marker)
    top.set_ylabel("loss")
    top.legend(frameon=False)

    names = [key for key in history[0] if key.startswith("dice_")]
    for number, key in enumerate(names):
        color = f"C{number + 2}"
        values = [row[key] for row in history]
        middle.plot(epochs, values, color=color, alpha=0.35, marker=marker)
        middle.plot(epochs, moving_mean(values), color=color, label=key.removeprefix("dice_"))
    middle.plot(epochs, moving_mean([row["dice"] for row in history]), color="black", label="mean", lw=2)
    middle.set_ylabel("Dice of validation patches\n(thick: moving mean)")
    middle.set_ylim(0, 1)
    middle.legend(frameon=False, loc="lower right", ncols=max(1, (len(names) + 1) // 6 + 1))

    bottom.plot(epochs, [row["learning_rate"] for row in history], color="C0", marker=marker)
    bottom.set_ylabel("learning rate", color="C0")
    bottom.set_yscale("log")
    seconds = bottom.twinx()
    seconds.plot(epochs, [row["seconds"] for row in history], color="C1", marker=marker)
    seconds.set_ylabel("s an epoch", color="C1")
    seconds.set_ylim(bottom=0)
    bottom.set_xlabel("epoch")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


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
