"""Means over cases, with empty masks, infinite distances and faults, against numbers calculated by hand."""

import math
from dataclasses import replace

import pytest

from mambamed.evaluation.summary import average_over_regions, case_rows, nnunet_keys, summarize
from mambamed.metrics.rules import DEFAULT
from tests.evaluation.four_cases import CASES, METRICS


def test_undefined_values_are_counted_and_misses_are_penalized() -> None:
    dice, hd95 = summarize(CASES, ["organ"], METRICS, DEFAULT)
    assert (dice.cases, dice.defined, dice.empty, dice.infinite, dice.unscored) == (4, 2, 1, 0, 1)
    assert dice.mean == pytest.approx(0.6)
    assert dice.sd == pytest.approx(math.sqrt(0.08))  # (0.2^2 + 0.2^2) / (2 - 1)
    assert (dice.median, dice.low, dice.high) == pytest.approx((0.6, 0.5, 0.7))
    assert dice.mean_penalized == pytest.approx((0.8 + 0.4 + 0) / 3)  # the unreadable case counts 0
    assert (hd95.defined, hd95.empty, hd95.infinite, hd95.unscored) == (1, 1, 1, 1)
    assert hd95.mean == 2.0
    assert hd95.mean_penalized == pytest.approx((2 + 100 + 100) / 3)  # the image's diagonal for b and d
    assert math.isnan(hd95.sd)


def test_a_penalty_in_mm_replaces_the_diagonal() -> None:
    (_, hd95) = summarize(CASES, ["organ"], METRICS, replace(DEFAULT, penalty_mm=373.13))
    assert hd95.mean_penalized == pytest.approx((2 + 2 * 373.13) / 3)


def test_the_average_over_regions_is_undefined_where_one_is() -> None:
    rows = summarize(CASES, ["organ", "absent"], METRICS, DEFAULT)
    assert math.isnan(average_over_regions(rows, "dice"))
    assert average_over_regions(rows[:2], "dice") == pytest.approx(0.6)


def test_a_case_that_could_not_be_scored_has_a_row_with_its_fault() -> None:
    headers, rows = case_rows(CASES, ["organ"], METRICS, DEFAULT)
    by_case = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert list(by_case) == ["a", "b", "c", "d"]
    assert (by_case["a"]["tp"], by_case["a"]["fp"], by_case["a"]["fn"]) == (6, 2, 2)
    assert by_case["d"]["presence"] == "unscored"
    assert by_case["d"]["fault"] == "d.nii: unreadable"


def test_the_keys_of_nnunet_hold_its_own_dice_and_iou() -> None:
    keys = nnunet_keys(CASES, {"organ": (1, 2)}, METRICS)
    first = keys["metric_per_case"][0].metrics["(1, 2)"]
    assert first["Dice"] == pytest.approx(2 * 6 / (8 + 8)) and first["IoU"] == pytest.approx(6 / 10)
    assert len(keys["metric_per_case"]) == 3  # without the case that could not be scored
    assert keys["foreground_mean"]["IoU"] == pytest.approx(0.6)
