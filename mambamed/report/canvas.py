"""Figures of matplotlib without a display: no pyplot, no settings of the user, and names as plain text."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def plain_style() -> Iterator[None]:
    """Within the block, or the decorated function, figures look the same on every machine.

    Text is never parsed: "$" in the name of a label begins no formula.
    """
    _import_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["text.parse_math"] = False
        yield


def new_figure(**settings: Any) -> Figure:
    """A figure that is drawn by Agg; the settings are those of `matplotlib.figure.Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **settings)
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """The bytes of a .png file, without the name of the program."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    for axes in figure.axes:  # powers of ten are formulas
        for label in (*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both")):
            label.set_parse_math(True)
    with mpl.rc_context({"text.parse_math": True}):  # of labels that are made while it is drawn
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _import_matplotlib() -> None:
    """Import it without MPLBACKEND, which may name a backend of another environment, e.g. in a notebook.

    A backend that can be used is set again, for pyplot in the process of the caller.
    """
    if "matplotlib" in sys.modules or (backend := os.environ.pop("MPLBACKEND", None)) is None:
        return
    try:
        import matplotlib as mpl
    finally:
        os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        mpl.rcParams["backend"] = backend
