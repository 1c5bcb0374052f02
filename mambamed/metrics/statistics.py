"""Confidence intervals and paired tests, by subject: repeated scans of a person are not independent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# With fewer subjects the spread is hardly known, and the bootstrap would hide that.
_FEWEST_SUBJECTS = 5
_EXACT_PAIRS = 14
_FLIPS = 20_000
_BLOCK = 4_000_000


def bootstrap_interval(
    values: ArrayLike,
    subjects: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the mean by the bias-corrected and accelerated bootstrap over subjects.

    Args:
        values: one per case, finite.
        subjects: subject of each case; None: every case is its own subject.
        resamples: draws of as many subjects as there are, with replacement.

    Returns: Low and high end; NaN for fewer than five subjects.

    Source: Efron 1987, J. Am. Stat. Assoc. 82:171 (BCa); the acceleration is the subjects' jackknife.
    >>> low, high = bootstrap_interval([0.8, 0.9, 0.85, 0.7, 0.95])
    >>> low < 0.84 < high
    True
    """
    sums, counts = _by_subject(np.asarray(values, float), subjects)
    n = len(sums)
    if n < _FEWEST_SUBJECTS:
        return math.nan, math.nan
    mean = sums.sum() / counts.sum()
    if np.ptp(sums / counts) == 0:
        return float(mean), float(mean)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, max(1, _BLOCK // n)):
        drawn = random.integers(0, n, (min(max(1, _BLOCK // n), resamples - start), n))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    means = np.sort(np.concatenate(means))
    from scipy.special import ndtr, ndtri

    below = (np.count_nonzero(means < mean) + np.count_nonzero(means <= mean)) / (2 * resamples)
    bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    without = (sums.sum() - sums) / (counts.sum() - counts)
    pull = without.mean() - without
    spread = (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (6 * spread) if spread > 0 else 0.0
    z = ndtri(np.array([(1 - level) / 2, (1 + level) / 2])) + bias
    low, high = np.quantile(means, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two models on the same cases."""

    pairs: int  # number of cases (subjects) that both have
    mean_difference: float  # second minus first
    interval: tuple[float, float]  # bootstrap confidence interval of that
    wilcoxon_p: float  # signed-rank test, two-sided; exact for few pairs
    permutation_p: float  # sign-flip test of the mean difference, two-sided; exact for up to 14 pairs


def paired_test(
    first: ArrayLike,
    second: ArrayLike,
    subjects: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Compare two models by one finite value per case; the tests use each subject's mean difference.

    `subjects` as in `bootstrap_interval`. Raises ValueError if the two differ in length.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values come in equal number, here {a.shape} and {b.shape}")
    differences = b - a
    if not differences.size:
        return PairedTest(0, math.nan, (math.nan, math.nan), math.nan, math.nan)
    sums, counts = _by_subject(differences, subjects)
    per_subject = sums / counts
    interval = bootstrap_interval(differences, subjects, level, seed=seed)
    wilcoxon_p = 1.0
    if np.any(per_subject):
        from scipy.stats import wilcoxon

        wilcoxon_p = float(wilcoxon(per_subject)[1])  # type: ignore[arg-type]
    flips = permutation_p(per_subject, seed=seed)
    return PairedTest(len(per_subject), float(differences.mean()), interval, wilcoxon_p, flips)


def permutation_p(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p of the mean of one difference per subject, if plus and minus are equally likely.

    All sign patterns are tried for up to 14 subjects, else 20 000 random ones.

    >>> permutation_p([1.0, 2.0, 3.0])  # 2 of the 8 sign patterns are as extreme
    0.25
    """
    values = np.asarray(differences, float)
    n, observed = len(values), abs(float(np.sum(values)))
    if n == 0:
        return math.nan
    slack = 1e-12 * max(np.abs(values).sum(), 1e-300)
    if n <= _EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
        return float(np.mean(np.abs(signs @ values) >= observed - slack))
    random = np.random.default_rng(seed)
    extreme, block = 0, max(1, _BLOCK // n)
    for start in range(0, _FLIPS, block):
        signs = random.integers(0, 2, (min(block, _FLIPS - start), n), dtype=np.int8) * 2.0 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= observed - slack))
    return (extreme + 1) / (_FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple testing (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected, worst = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        corrected[index] = worst
    return corrected


def mean_ranks(values: ArrayLike, higher_is_better: bool) -> NDArray[np.float64]:
    """Mean rank of each model over the cases of `(models, cases)` values, 1 = best; ties share their ranks.

    >>> mean_ranks([[0.9, 0.8], [0.9, 0.7]], higher_is_better=True).tolist()
    [1.25, 1.75]
    """
    table = np.asarray(values, float) * (-1 if higher_is_better else 1)
    smaller = (table[None] < table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    return (smaller + (equal + 1) / 2).mean(axis=1)


def _by_subject(values: NDArray, subjects: Sequence[Hashable] | None) -> tuple[NDArray, NDArray]:
    """Sum and count of each subject's values."""
    if subjects is None:
        return values, np.ones(len(values))
    if len(subjects) != len(values):
        raise ValueError(f"{len(values)} values of {len(subjects)} subjects")
    index = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
    owners = np.array([index[subject] for subject in subjects], np.intp)
    return np.bincount(owners, weights=values), np.bincount(owners).astype(float)
