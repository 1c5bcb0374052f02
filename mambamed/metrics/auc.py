"""Area under the ROC curve, its confidence interval, and the comparison of two models.

Cases of one subject are not independent: with subjects, the variance is that of clustered data (Obuchowski
1997, Biometrics 53:567). If every subject has one case, it equals DeLong's (DeLong et al. 1988, Biometrics
44:837).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Subjects = Sequence[Hashable] | None


def checked(reference: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """`(n,)` truth as booleans and scores as floats; raises ValueError for other values or lengths."""
    truth, values = np.asarray(reference), np.asarray(score, float)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"{truth.shape} classes for scores of shape {values.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("a two-class reference holds 0 and 1 only")
    if not np.isfinite(values).all():
        raise ValueError("scores are finite numbers")
    return truth.astype(bool), values


def auc(reference: ArrayLike, score: ArrayLike) -> float:
    """Probability that a positive case has a higher score than a negative one; ties count half.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    return auc_interval(reference, score)[0]


def auc_interval(
    reference: ArrayLike, score: ArrayLike, level: float = 0.95, subjects: Subjects = None
) -> tuple[float, tuple[float, float]]:
    """AUC and its confidence interval, clipped to 0..1; by subject if `(n,)` subjects are given.

    NaN if there is only one class, or a class has fewer than two subjects.
    """
    truth, _ = checked(reference, score)
    above, below = _parts(reference, score)
    if not len(above):
        return math.nan, (math.nan, math.nan)
    area, sd = float(above.mean()), _sd(above, below, truth, subjects)
    if math.isnan(sd):
        return area, (math.nan, math.nan)
    from scipy.special import ndtri

    half = float(ndtri((1 + level) / 2)) * sd
    return area, (max(0.0, area - half), min(1.0, area + half))


@dataclass(frozen=True)
class AucDifference:
    """AUC of two models on the same cases."""

    first: float  # mean over its runs
    second: float
    interval: tuple[float, float]  # of second minus first
    p: float  # two-sided, of no difference; NaN if a class has fewer than two subjects


def auc_difference(
    reference: ArrayLike,
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    level: float = 0.95,
    subjects: Subjects = None,
) -> AucDifference:
    """Compare the AUC of two models on the same cases, whose areas are correlated.

    Args:
        reference: `(n,)` 0 or 1.
        first, second: `(n,)` scores of every run of a model, at least one.
        level: confidence of the interval.
        subjects: of the `(n,)` cases (default: every case its own).

    Source: DeLong et al. 1988, eq. 7, and Obuchowski 1997 for several cases per subject. The structural
    components are averaged over runs, so that the area is the mean of theirs.
    """
    parts = [[_parts(reference, run) for run in runs] for runs in (first, second)]
    above, below = ([np.mean([run[k] for run in runs], axis=0) for runs in parts] for k in (0, 1))
    if not above[0].size:
        return AucDifference(math.nan, math.nan, (math.nan, math.nan), math.nan)
    one, two = float(above[0].mean()), float(above[1].mean())
    truth = np.asarray(reference).astype(bool)
    sd = _sd(above[1] - above[0], below[1] - below[0], truth, subjects)
    if math.isnan(sd):
        return AucDifference(one, two, (math.nan, math.nan), math.nan)
    from scipy.special import ndtr, ndtri

    half = float(ndtri((1 + level) / 2)) * sd
    # A spread of 0 means that both rank all cases in the same order.
    p = 2 * float(ndtr(-abs(two - one) / sd)) if sd > 0 else float(two == one)
    return AucDifference(one, two, (two - one - half, two - one + half), p)


def _parts(reference: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each positive the fraction of negatives below it, for each negative that of positives above it.

    Both are empty if there is only one class. Computed by ranks (Sun & Xu 2014, IEEE SPL 21:1389).
    """
    truth, values = checked(reference, score)
    positive, negative = values[truth], values[~truth]
    m, n = len(positive), len(negative)
    if not m or not n:
        return np.zeros(0), np.zeros(0)
    ranks = _ranks(np.concatenate([positive, negative]))
    return (ranks[:m] - _ranks(positive)) / n, 1 - (ranks[m:] - _ranks(negative)) / m


def _sd(
    above: NDArray[np.float64], below: NDArray[np.float64], truth: NDArray[np.bool_], subjects: Subjects
) -> float:
    """Standard deviation of the mean of `above`, which is also that of `below`.

    Args:
        above, below: structural components of the positive and of the negative cases, or differences of them.
        truth: `(n,)` whether a case is positive.

    Returns: NaN if a class has fewer than two subjects.
    """
    owners = np.arange(len(truth))
    if subjects is not None:
        index = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
        owners = np.array([index[subject] for subject in subjects], np.intp)
    clusters = int(owners.max(initial=-1)) + 1
    positive, negative = owners[truth], owners[~truth]
    # of each subject: the sum of the deviations of its components from the area
    x = np.bincount(positive, above - above.mean(), clusters)
    y = np.bincount(negative, below - below.mean(), clusters)
    with_positive, with_negative = len(np.unique(positive)), len(np.unique(negative))
    if min(with_positive, with_negative) < 2:
        return math.nan
    m, n = len(above), len(below)
    variance = with_positive / (with_positive - 1) * float(x @ x) / m**2
    variance += with_negative / (with_negative - 1) * float(y @ y) / n**2
    variance += 2 * clusters / (clusters - 1) * float(x @ y) / (m * n)
    return math.sqrt(max(variance, 0.0))


def _ranks(values: NDArray) -> NDArray[np.float64]:
    """Ranks from 1, equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
