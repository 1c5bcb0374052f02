"""The picture of a training shows what log.csv holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from mambamed.report.progress import draw_progress, moving_mean


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
    # four epochs are too few to be averaged; NaN keeps the former value
    np.testing.assert_allclose(drawn["a"], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(drawn["b"], [0.11, 0.11, 0.31, 0.41])
    np.testing.assert_allclose(drawn["mean"], [0.1, 0.2, 0.3, 0.4])
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


def test_the_moving_mean_starts_at_the_first_value_and_follows():
    """A span of 3, the fiftieth part of 150 values, halves the weight with each value."""
    values = np.random.default_rng(0).normal(0.8, 0.1, 150)
    weights = 0.5 ** np.arange(150)[::-1]
    means = moving_mean(values)
    assert means[0] == values[0]
    assert means[-1] == pytest.approx((weights * values).sum() / weights.sum())
    short = list(np.linspace(0.1, 0.78, 15))
    assert moving_mean(short)[-1] == pytest.approx(0.78)


@pytest.mark.parametrize(
    ("name", "scores", "higher"),
    [
        ("auc", [0.97, 0.99, 1.0, 1.0], True),
        ("auc", [1.0, 1.0, 1.0, 1.0], True),
        ("dice", [0.1, 0.5, 0.7, 0.78], True),
        ("error_mm", [26.0, 9.0, 5.0, 4.6], False),
        ("error_mm", [4.0, 4.1, 4.0, 3.9], False),
        ("error_mm", [4.0, math.nan, math.inf, 3.9], False),
    ],
)
def test_the_axis_fits_the_curve(tmp_path, figures, name, scores, higher):
    history = [row | {name: score} for row, score in zip(rows([]), scores, strict=True)]
    draw_progress(history, tmp_path / "progress.png", name, higher)
    low, high = figures[0].axes[1].get_ylim()
    known = [score for score in scores if math.isfinite(score)]
    assert low < min(known)
    assert max(known) < high
    if max(known) - min(known) > 0.1:
        place = figures[0].axes[1].transAxes.inverted().transform
        data = figures[0].axes[1].transData.transform
        heights = [place(data((1, score)))[1] for score in known]
        assert max(heights) - min(heights) > 0.7  # of the panel
