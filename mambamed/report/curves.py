"""Learning curves of several trainings in one picture: the mean of their runs, and the range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mambamed.report.canvas import new_figure, plain_style, png_of
from mambamed.report.planes import color_of
from mambamed.report.progress import moving_mean

Curve = Sequence[tuple[float, float]]
"""Pairs of step (or time) and score, in their order."""


@plain_style()
def curves_png(
    curves: Mapping[str, Sequence[Curve]], axis: str, title: str = "", along: str = "step"
) -> bytes:
    """Draw one line per name: the mean over its curves, moving along the steps, in the band of their range.

    Args:
        curves: name -> the curves of its runs, which may have different steps.
        axis: what the scores are.
        along: what the steps are.
    """
    import numpy as np

    figure = new_figure(figsize=(9, 4.5), dpi=100)
    axes = figure.subplots()
    for number, (name, runs) in enumerate(curves.items()):
        known = [[(x, y) for x, y in run if math.isfinite(y)] for run in runs]
        known = [run for run in known if run]
        if not known:
            continue
        end = min(run[-1][0] for run in known)  # up to where all runs go
        steps = sorted({x for run in known for x, _ in run if x <= end})
        smooth = [np.interp(steps, [x for x, _ in run], moving_mean([y for _, y in run])) for run in known]
        color = color_of(number)
        marker = "o" if len(steps) < 3 else None
        axes.plot(steps, np.mean(smooth, axis=0), color=color, label=name, lw=2, marker=marker)
        if len(smooth) > 1:
            axes.fill_between(
                steps, np.min(smooth, axis=0), np.max(smooth, axis=0), color=color, alpha=0.18, lw=0
            )
    axes.set_xlabel(along)
    axes.set_ylabel(axis)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if curves:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small")
    return png_of(figure)
