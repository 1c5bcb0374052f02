"""Classification scores against scikit-learn, DeLong by hand and by bootstrap."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mambamed.metrics.classification import (
    auc,
    auc_interval,
    average_precision,
    calibration_error,
    choose_threshold,
    score_binary,
    score_multiclass,
)


def questions():
    random = np.random.default_rng(0)
    for n in (12, 60, 500):
        truth = random.integers(0, 2, n)
        truth[:2] = (0, 1)
        p = np.clip(truth * 0.2 + random.random(n) * 0.8, 0, 1)
        yield truth, p
        yield truth, np.round(p, 1)  # many ties


def test_binary_scores_equal_scikit_learn() -> None:
    for truth, p in questions():
        called = p >= 0.5
        ours = score_binary(truth, p)
        assert ours.values["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, called))
        expected = sklearn.balanced_accuracy_score(truth, called)
        assert ours.values["balanced_accuracy"] == pytest.approx(expected)
        assert ours.values["sensitivity"] == pytest.approx(sklearn.recall_score(truth, called))
        assert ours.values["specificity"] == pytest.approx(sklearn.recall_score(truth, called, pos_label=0))
        assert ours.values["precision"] == pytest.approx(sklearn.precision_score(truth, called))
        assert ours.values["f1"] == pytest.approx(sklearn.f1_score(truth, called))
        assert ours.values["auc"] == pytest.approx(sklearn.roc_auc_score(truth, p))
        assert ours.values["average_precision"] == pytest.approx(sklearn.average_precision_score(truth, p))
        assert ours.values["brier"] == pytest.approx(sklearn.brier_score_loss(truth, p))
        low, high = ours.auc_interval
        assert low <= ours.values["auc"] <= high


def test_multiclass_scores_equal_scikit_learn() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 4, 200)
    p = random.dirichlet(np.ones(4), 200) + np.eye(4)[truth] * 0.4
    p /= p.sum(axis=1, keepdims=True)
    answer = p.argmax(axis=1)
    ours = score_multiclass(truth, p)
    assert ours.values["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, answer))
    assert ours.values["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(truth, answer))
    for name, function in (
        ("precision_macro", sklearn.precision_score),
        ("recall_macro", sklearn.recall_score),
        ("f1_macro", sklearn.f1_score),
    ):
        assert ours.values[name] == pytest.approx(function(truth, answer, average="macro")), name
    assert ours.values["auc_macro"] == pytest.approx(sklearn.roc_auc_score(truth, p, multi_class="ovr"))
    np.testing.assert_array_equal(ours.confusion, sklearn.confusion_matrix(truth, answer))


def test_delong_by_hand() -> None:
    # Positives 0.8, 0.6, 0.4; negatives 0.5, 0.3. Positives above the negatives: 1, 1, 1/2.
    # Negatives below the positives: 2/3, 1. AUC 5/6; variance (1/12)/3 + (1/18)/2 = 1/18.
    truth, p = [1, 1, 1, 0, 0], [0.8, 0.6, 0.4, 0.5, 0.3]
    area, (low, high) = auc_interval(truth, p)
    assert area == pytest.approx(5 / 6)
    assert low == pytest.approx(5 / 6 - 1.959964 * math.sqrt(1 / 18), abs=1e-6)
    assert high == 1.0


def test_delongs_interval_is_about_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(0, 2, 300)
    p = truth * 0.5 + random.normal(0, 0.6, 300)
    _, (low, high) = auc_interval(truth, p)
    draws = []
    for _ in range(400):
        chosen = random.integers(0, 300, 300)
        draws.append(auc(truth[chosen], p[chosen]))
    assert (low, high) == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.012)


def test_what_is_undefined_is_nan_and_never_zero() -> None:
    only_negative = score_binary([0, 0, 0], [0.1, 0.2, 0.3])
    assert math.isnan(only_negative.values["auc"])
    assert math.isnan(only_negative.values["sensitivity"])
    assert math.isnan(only_negative.values["precision"])
    assert math.isnan(only_negative.values["average_precision"])
    assert only_negative.values["specificity"] == 1.0
    assert math.isnan(score_binary([], []).values["accuracy"])


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, 0.5] holds 0.4 (wrong): gap 0.4; (0.5, 1] holds 0.8, 0.9 (one right): gap |1 - 1.7| = 0.7.
    assert calibration_error([0.4, 0.8, 0.9], [0, 1, 0], bins=2) == pytest.approx((0.4 + 0.7) / 3)
    assert score_binary([1, 0], [1.0, 0.0]).values["ece"] == 0.0


def test_a_threshold_is_chosen_between_two_cases_and_is_the_best() -> None:
    truth, p = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.35, 0.3, 0.8, 0.9])
    threshold = choose_threshold(truth, p)
    assert threshold == pytest.approx(0.325)
    assert score_binary(truth, p, threshold).values["balanced_accuracy"] == 1.0
    assert choose_threshold(truth, p, "f1") == pytest.approx(0.325)
    assert choose_threshold([1, 1], [0.2, 0.9]) == 0.5


def test_average_precision_of_ties_falls_together() -> None:
    truth, p = [1, 0, 1, 0], [0.5, 0.5, 0.5, 0.1]
    assert average_precision(truth, p) == pytest.approx(sklearn.average_precision_score(truth, p))


@pytest.mark.parametrize(
    ("truth", "p", "fact"),
    [
        ([0, 1], [0.5], r"\(2,\) classes for scores of shape \(1,\)"),
        ([0, 2], [0.1, 0.2], "a two-class reference holds 0 and 1 only"),
        ([0, 1], [0.1, math.nan], "scores are finite numbers"),
        ([[0]], [[0.1]], r"\(1, 1\) classes for scores of shape \(1, 1\)"),
    ],
)
def test_what_is_no_question_is_refused(truth, p, fact) -> None:
    with pytest.raises(ValueError, match=fact):
        score_binary(truth, p)
