"""The picture of a training shows what log.csv holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from mambamed.report.progress import draw_progress


def rows(names, epochs=4):
    return [
        {
            "epoch": e,
            "loss": 1.0 / e,
            "validation_loss": 2.0 / e,
            "dice": 0.1 * e,
            **{f"dice_{name}": 0.01 * k + 0.1 * e for k, name in enumerate(names)},
            "learning_rate": 0.1 / e,
            "seconds": 10.0 * e,
        }
        for e in range(1, epochs + 1)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    kept, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        kept.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def test_losses_scores_with_their_moving_means_rate_and_seconds_are_drawn(tmp_path, figures):
    history = rows(["a", "b"])
    history[1]["dice_b"] = math.nan
    draw_progress(history, tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    top, middle, bottom, seconds = figures[0].axes
    assert [list(line.get_ydata()) for line in top.lines] == [[1, 1 / 2, 1 / 3, 1 / 4], [2, 1, 2 / 3, 1 / 2]]
    drawn = {line.get_label(): line.get_ydata() for line in middle.lines if line.get_alpha() is None}
    # 0.1, then 0.9 of the former and 0.1 of the new: 0.11, 0.129, 0.1561
    np.testing.assert_allclose(drawn["a"], [0.1, 0.11, 0.129, 0.1561])
    np.testing.assert_allclose(drawn["b"], [0.11, 0.11, 0.9 * 0.11 + 0.031, 0.9 * 0.13 + 0.041])
    np.testing.assert_allclose(drawn["mean"], [0.1, 0.11, 0.129, 0.1561])
    thin = [line.get_ydata()[0] for line in middle.lines if line.get_alpha() is not None]
    assert thin == pytest.approx([0.1, 0.11])
    assert list(bottom.lines[0].get_ydata()) == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])
    assert list(seconds.lines[0].get_ydata()) == [10, 20, 30, 40]


@pytest.mark.parametrize("count", [1, 15, 40])
def test_structures_differ_in_color_as_far_as_there_are_colors(tmp_path, figures, count):
    draw_progress(rows([f"organ {k}" for k in range(count)], epochs=1), tmp_path / "progress.png")
    middle = figures[0].axes[1]
    colors = {line.get_color() for line in middle.lines if line.get_alpha() is None}
    assert len(colors) == min(count, 20) + 1  # and the mean's
    assert (middle.get_legend() is None) == (count > 20)
