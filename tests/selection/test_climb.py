"""Options that are better are taken, the simple ones first; those that differ by chance are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mambamed.selection.climb import case_means, climb, fewest_for

SUBJECTS = [f"s{number}" for number in range(30)]
BASE = np.random.default_rng(0).uniform(0.5, 0.9, (30, 2))


def climbed(gains: dict[str, float], noise: float = 0.01, seed: int = 1, subjects=SUBJECTS):
    """From the option "now"; each gain is added to every score, with noise."""
    random = np.random.default_rng(seed)
    scores = {name: BASE + gain + random.normal(0, noise, BASE.shape) for name, gain in gains.items()}
    scores["now"] = BASE

    def options_of(current: str) -> dict[str, str]:
        return {name: name for name in gains if name != current}

    def score(asked):
        return {name: scores[option] for name, option in asked.items()}

    return climb("runs", "now", options_of, score, subjects, 1.0)


def test_the_first_better_option_is_taken_and_the_next_round_starts_from_it() -> None:
    chosen, tested = climbed({"worse": -0.1, "good": 0.05, "best": 0.1})
    assert chosen == "best" and [t.option for t in tested if t.taken] == ["good", "best"]
    assert tested[1].after - tested[1].before == pytest.approx(0.05, abs=0.01)
    chosen, tested = climbed({"simple": 0.05, "costly": 0.05})
    assert chosen == "simple"


def test_options_that_differ_by_chance_are_rarely_taken() -> None:
    """Of 40 choices among 12 options without any gain, at most 5 per cent are expected to be wrong."""
    wrong = sum(
        climbed({f"o{k}": 0.0 for k in range(12)}, 0.05, 100 + seed)[0] != "now" for seed in range(40)
    )
    assert wrong <= 5  # the probability of more is 1.4 % (binomial, 0.05)


def test_few_subjects_change_nothing_and_cases_of_a_subject_count_once() -> None:
    assert climbed({"best": 0.2}, subjects=[f"s{number % 5}" for number in range(30)])[0] == "now"
    assert climbed({"best": 0.2}, subjects=[f"s{number % 6}" for number in range(30)])[0] == "best"
    assert fewest_for(0.05) == 6


def test_a_structure_in_no_mask_does_not_count_and_a_missing_one_counts_as_absent() -> None:
    nan = math.nan
    scores = {
        "a": np.array([[0.5, nan], [0.5, nan], [nan, nan]]),
        "b": np.array([[0.7, 0.0], [0.7, nan], [nan, nan]]),
    }
    means = case_means(scores, absent=1.0)
    # In the first case only b predicts the second structure, which the reference does not have.
    assert means["a"].tolist() == [0.75, 0.5, 1.0] and means["b"].tolist() == [0.35, 0.7, 1.0]
