"""Landmark scores by hand."""

import math

import pytest

from mambamed.metrics.points import score_points, summarize_points

NAN = (math.nan,) * 3


def test_missed_points_are_failures_and_spurious_ones_are_listed() -> None:
    first = score_points(
        {"a": (0, 0, 0), "b": (0, 0, 0), "c": NAN}, {"a": (0, 0, 2), "b": NAN, "c": (1, 1, 1)}
    )
    second = score_points({"a": (0, 0, 0), "b": (5, 0, 0)}, {"a": (3, 4, 0), "b": (5, 2.5, 0)})
    assert first.missed == ("b",)
    assert (first.spurious, first.absent) == (("c",), ("c",))
    a, b, c, everything = summarize_points([first, second], ("a", "b", "c"))
    assert (a.expected, a.found, a.values["mre_mm"], a.values["max_mm"]) == (2, 2, 3.5, 5.0)
    assert a.values["sd_mm"] == pytest.approx(math.sqrt(4.5))  # 2 and 5: deviations of 1.5, n - 1
    assert a.sdr == {2.0: 0.5, 2.5: 0.5, 3.0: 0.5, 4.0: 0.5}  # at just 2 mm is a success
    assert (b.expected, b.found, b.values["mre_mm"]) == (2, 1, 2.5)
    assert b.sdr == {2.0: 0.0, 2.5: 0.5, 3.0: 0.5, 4.0: 0.5}
    assert (c.expected, c.found, c.spurious, c.absent) == (0, 0, 1, 1)
    assert math.isnan(c.values["mre_mm"])
    assert math.isnan(c.sdr[2.0])
    assert (everything.expected, everything.found, everything.spurious) == (4, 3, 1)
    assert everything.values["mre_mm"] == pytest.approx((2 + 5 + 2.5) / 3)
    assert everything.sdr[2.5] == 0.5


def test_a_landmark_that_is_not_annotated_is_not_scored() -> None:
    """By hand: of three places, one is absent in both, one spurious, and one nobody has annotated."""
    case = score_points({"a": None, "b": None}, {"a": None, "b": (1, 1, 1), "c": (2, 2, 2)})
    assert (case.errors_mm, case.missed, case.spurious, case.absent) == ({}, (), ("b",), ("a", "b"))
    (c, everything) = summarize_points([case], ("c",))
    assert (c.expected, c.spurious, c.absent) == (everything.expected, everything.spurious, 0) == (0, 0, 0)
