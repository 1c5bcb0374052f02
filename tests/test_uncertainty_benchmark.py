"""`benchmarks/uncertainty.py`: rank correlations within folds, against SciPy and by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def ranked(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("uncertainty").ranked


def test_in_one_fold_it_is_spearmans(ranked) -> None:
    random = np.random.default_rng(0)
    number, dice = random.normal(size=20), random.normal(size=20)
    number += dice
    found = ranked(number, dice, 1)
    expected = stats.spearmanr(number, dice, alternative="greater")
    assert found.rho == pytest.approx(expected.statistic) and found.p == pytest.approx(
        expected.pvalue, abs=0.003
    )
    assert found.interval[0] < found.rho < found.interval[1]


def test_folds_of_different_levels_are_compared_within(ranked) -> None:
    """By hand: of the (4!)^2 = 576 arrangements within two folds of four cases, only one is in order."""
    dice, folds = np.array([1.0, 2, 3, 4] * 2), np.repeat([0, 1], 4)
    number = np.where(folds == 0, 100 - dice, -dice)
    found = ranked(number, dice, -1, folds)
    assert found.rho == pytest.approx(-1) and found.p == pytest.approx(1 / 576, abs=0.0006)
    assert stats.spearmanr(number, dice).statistic > -0.6
