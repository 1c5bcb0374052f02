"""Intervals and tests against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mambamed.metrics.statistics import bootstrap_interval, holm, mean_ranks, paired_test, permutation_p


def test_the_interval_equals_scipys_bca_bootstrap() -> None:
    values = np.random.default_rng(0).beta(8, 1.5, 40)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_interval(values, resamples=20_000)
    # Two draws of 20 000: each end is uncertain by about 1 % of the interval's width.
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(random.normal(0.8, 0.1, 25), resamples=600)
        hits += low <= 0.8 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_visits_of_one_subject_are_no_new_witnesses() -> None:
    random = np.random.default_rng(2)
    per_subject = random.normal(0.8, 0.1, 12)
    values, subjects = np.repeat(per_subject, 4), np.repeat(np.arange(12), 4).tolist()
    by_subject, by_case = bootstrap_interval(values, subjects), bootstrap_interval(values)
    assert by_subject == pytest.approx(bootstrap_interval(per_subject), rel=1e-12)
    assert np.ptp(by_subject) > 1.5 * np.ptp(by_case)


def test_too_few_subjects_have_no_interval_and_equal_values_a_point() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval([0.5, 0.6, 0.7, 0.8]))
    assert bootstrap_interval([0.7] * 6) == (pytest.approx(0.7), pytest.approx(0.7))
    assert all(math.isnan(end) for end in bootstrap_interval([]))


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).random(20)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_the_paired_test_equals_scipys() -> None:
    random = np.random.default_rng(7)
    a = random.random(12)
    b = a + random.normal(0.05, 0.1, 12)
    found = paired_test(a, b)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(b - a).pvalue, rel=1e-12)
    theirs = stats.permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.permutation_p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.mean_difference == pytest.approx(np.mean(b - a))
    assert found.pairs == 12


def test_many_pairs_are_flipped_at_random_with_about_the_same_p() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1.0, 60)
    theirs = stats.ttest_1samp(differences, 0).pvalue
    assert permutation_p(differences) == pytest.approx(theirs, rel=0.15)


def test_equal_models_do_not_differ_and_none_say_nothing() -> None:
    same = paired_test([0.5] * 6, [0.5] * 6)
    assert (same.wilcoxon_p, same.permutation_p, same.mean_difference) == (1.0, 1.0, 0.0)
    nothing = paired_test([], [])
    assert nothing.pairs == 0
    assert math.isnan(nothing.permutation_p)
    with pytest.raises(ValueError, match="equal number"):
        paired_test([1.0], [1.0, 2.0])


def test_holm_by_hand_and_with_what_could_not_be_tested() -> None:
    # 0.01 x 4, 0.015 x 3 = 0.045, 0.02 x 2 = 0.04 (not below the one before), 0.5 x 1
    assert holm([0.02, 0.01, math.nan, 0.5, 0.015]) == pytest.approx(
        [0.045, 0.04, math.nan, 0.5, 0.045], nan_ok=True
    )


def test_ranks_equal_scipys() -> None:
    table = np.random.default_rng(0).integers(0, 4, (3, 20)).astype(float)
    theirs = stats.rankdata(-table, axis=0).mean(axis=1)
    np.testing.assert_allclose(mean_ranks(table, higher_is_better=True), theirs)
