"""Probabilities against classes: what the threshold decides, what the ranking tells, how honest they are.

Undefined ratios are NaN (precision where nothing was called positive), never 0. A threshold is given or
chosen on validation cases (`choose_threshold`), never on those that are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class BinaryScores:
    """A question with two answers; the second class is "positive".

    Attributes:
        cases, positives: counts.
        threshold: a probability at or above it is called positive.
        accuracy, balanced_accuracy, sensitivity, specificity, precision, f1: at the threshold.
        auc: area under the ROC curve, ties counted half; NaN where only one class is there.
        auc_interval: its confidence interval (DeLong).
        average_precision: area under the precision-recall steps.
        brier: mean squared error of the probability.
        ece: expected calibration error.
    """

    cases: int
    positives: int
    threshold: float
    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    precision: float
    f1: float
    auc: float
    auc_interval: tuple[float, float]
    average_precision: float
    brier: float
    ece: float


@dataclass(frozen=True)
class MulticlassScores:
    """A question with several answers; each class counts the same in what is called macro.

    Attributes:
        cases: count.
        accuracy, balanced_accuracy: of the most probable class.
        precision_macro, recall_macro, f1_macro: means over the classes that occur in reference or answer.
        auc_macro: mean over classes of each against the rest.
        brier: mean over cases of the squared distance of the probabilities to the true class.
        ece: expected calibration error of the most probable class.
        confusion: `(K, K)` cases of reference class i answered as j.
    """

    cases: int
    accuracy: float
    balanced_accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    auc_macro: float
    brier: float
    ece: float
    confusion: NDArray[np.int64]


def score_binary(
    reference: ArrayLike, probability: ArrayLike, threshold: float = 0.5, level: float = 0.95
) -> BinaryScores:
    """Score probabilities of the positive class.

    Args:
        reference: `(n,)` 0 or 1.
        probability: `(n,)` of class 1.
        threshold: given, or chosen on validation cases.
        level: confidence of the AUC's interval.

    Raises:
        ValueError: other lengths, other values.
    """
    truth, p = _checked(reference, probability)
    called = p >= threshold
    tp, fp = int(np.sum(called & truth)), int(np.sum(called & ~truth))
    fn, tn = int(np.sum(~called & truth)), int(np.sum(~called & ~truth))
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    area, interval = auc_interval(truth, p, level)
    return BinaryScores(
        cases=len(truth),
        positives=tp + fn,
        threshold=threshold,
        accuracy=_ratio(tp + tn, len(truth)),
        balanced_accuracy=(sensitivity + specificity) / 2,
        sensitivity=sensitivity,
        specificity=specificity,
        precision=_ratio(tp, tp + fp),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        auc=area,
        auc_interval=interval,
        average_precision=average_precision(truth, p),
        brier=float(np.mean((p - truth) ** 2)) if len(p) else math.nan,
        ece=calibration_error(np.where(p >= 0.5, p, 1 - p), (p >= 0.5) == truth),
    )


def score_multiclass(reference: ArrayLike, probabilities: ArrayLike) -> MulticlassScores:
    """Score class probabilities.

    Args:
        reference: `(n,)` class index.
        probabilities: `(n, K)`, rows that sum to 1.

    Raises:
        ValueError: other shapes, or a class index that is not among the K.
    """
    truth, p = np.asarray(reference, np.intp), np.asarray(probabilities, float)
    if p.ndim != 2 or truth.shape != (len(p),):
        raise ValueError(f"{truth.shape} classes for probabilities of shape {p.shape}")
    k = p.shape[1]
    if truth.size and not 0 <= truth.min() <= truth.max() < k:
        raise ValueError(f"class {truth.max()} is not among the {k} of the probabilities")
    answer = p.argmax(axis=1)
    confusion = np.bincount(truth * k + answer, minlength=k * k).reshape(k, k)
    hits, actual, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurring = (actual + called) > 0
    recalls = [_ratio(h, n) for h, n in zip(hits, actual, strict=True)]
    precisions = [_ratio(h, n) for h, n in zip(hits, called, strict=True)]
    f1 = [_ratio(2 * h, a + c) for h, a, c in zip(hits, actual, called, strict=True)]
    areas = [auc(truth == c, p[:, c]) for c in range(k)]
    return MulticlassScores(
        cases=len(truth),
        accuracy=_ratio(int(hits.sum()), len(truth)),
        balanced_accuracy=_mean([r for r in recalls if not math.isnan(r)]),
        # A class that is there and was never called has no precision; it counts as 0, as it does in F1.
        precision_macro=_mean(
            [0.0 if math.isnan(v) else v for v, o in zip(precisions, occurring, strict=True) if o]
        ),
        recall_macro=_mean(
            [0.0 if math.isnan(v) else v for v, o in zip(recalls, occurring, strict=True) if o]
        ),
        f1_macro=_mean([v for v, o in zip(f1, occurring, strict=True) if o]),
        auc_macro=_mean(areas),
        brier=float(np.mean(np.sum((p - np.eye(k)[truth]) ** 2, axis=1))) if len(p) else math.nan,
        ece=calibration_error(p.max(axis=1), answer == truth),
        confusion=confusion,
    )


def auc(reference: ArrayLike, score: ArrayLike) -> float:
    """Chance that a positive case has a higher score than a negative one, ties counted half.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    return auc_interval(reference, score)[0]


def auc_interval(
    reference: ArrayLike, score: ArrayLike, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """AUC and its confidence interval, cut to 0..1; NaN where only one class is there.

    Source:
        DeLong et al. 1988, Biometrics 44:837.
    """
    above, below = _auc_parts(reference, score)
    if not len(above):
        return math.nan, (math.nan, math.nan)
    area, sd = float(above.mean()), _auc_sd(above, below)
    if math.isnan(sd):
        return area, (math.nan, math.nan)
    from scipy.special import ndtri

    half = float(ndtri((1 + level) / 2)) * sd
    return area, (max(0.0, area - half), min(1.0, area + half))


@dataclass(frozen=True)
class AucDifference:
    """Two models on the same cases.

    Attributes:
        first, second: their AUC, means over their runs.
        interval: of second minus first.
        p: two-sided, of no difference; NaN where a class has fewer than two cases.
    """

    first: float
    second: float
    interval: tuple[float, float]
    p: float


def auc_difference(
    reference: ArrayLike, first: Sequence[ArrayLike], second: Sequence[ArrayLike], level: float = 0.95
) -> AucDifference:
    """Whether two models differ in AUC, by the correlated areas on the same cases.

    Args:
        reference: `(n,)` 0 or 1.
        first, second: `(n,)` scores of every run of a model, one at least.
        level: confidence of the interval.

    Source:
        DeLong et al. 1988, Biometrics 44:837, eq. 7. Of several runs the structural components are averaged,
        so that the area is the mean of theirs.
    """
    parts = [[_auc_parts(reference, run) for run in runs] for runs in (first, second)]
    above, below = ([np.mean([run[k] for run in runs], axis=0) for runs in parts] for k in (0, 1))
    if not above[0].size:
        return AucDifference(math.nan, math.nan, (math.nan, math.nan), math.nan)
    one, two = float(above[0].mean()), float(above[1].mean())
    sd = _auc_sd(above[1] - above[0], below[1] - below[0])
    if math.isnan(sd):
        return AucDifference(one, two, (math.nan, math.nan), math.nan)
    from scipy.special import ndtr, ndtri

    half = float(ndtri((1 + level) / 2)) * sd
    # Without any spread the two rank all cases alike.
    p = 2 * float(ndtr(-abs(two - one) / sd)) if sd > 0 else float(two == one)
    return AucDifference(one, two, (two - one - half, two - one + half), p)


def _auc_parts(reference: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each positive the part of the negatives below it, of each negative that of the positives above it.

    Both empty where only one class is there. By ranks, as in Sun & Xu 2014, IEEE SPL 21:1389.
    """
    truth, values = _checked(reference, score)
    positive, negative = values[truth], values[~truth]
    m, n = len(positive), len(negative)
    if not m or not n:
        return np.zeros(0), np.zeros(0)
    ranks = _ranks(np.concatenate([positive, negative]))
    return (ranks[:m] - _ranks(positive)) / n, 1 - (ranks[m:] - _ranks(negative)) / m


def _auc_sd(above: NDArray, below: NDArray) -> float:
    """Standard deviation of the area; NaN where a class has fewer than two cases."""
    if min(len(above), len(below)) < 2:
        return math.nan
    return math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))


def average_precision(reference: ArrayLike, score: ArrayLike) -> float:
    """Sum of precision times the step in recall, over falling thresholds; NaN without positives."""
    truth, values = _checked(reference, score)
    if not truth.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    hits, sorted_values = np.cumsum(truth[order]), values[order]
    ends = np.flatnonzero(np.append(np.diff(sorted_values) != 0, True))  # equal scores fall together
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(hits[ends], prepend=0) / hits[-1] * precision))


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected gap between confidence and accuracy, over bins of equal width.

    Source:
        Guo et al. 2017, arXiv:1706.04599, eq. 3: bins open on the left, 15 of them.
    """
    sure, hit = np.asarray(confidence, float), np.asarray(right, float)
    if not sure.size:
        return math.nan
    which = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=hit - sure, minlength=bins)
    return float(np.abs(gaps).sum() / sure.size)


def choose_threshold(
    reference: ArrayLike, probability: ArrayLike, criterion: Literal["youden", "f1"] = "youden"
) -> float:
    """The threshold that is best on validation cases: by sensitivity + specificity, or by F1.

    Between equally good ones the middle one; half way to the next lower probability, so that a
    validation case does not sit on the edge.
    """
    truth, p = _checked(reference, probability)
    candidates = np.unique(p)
    if truth.all() or not truth.any() or len(candidates) < 2:
        return 0.5
    scores = []
    for candidate in candidates:
        called = p >= candidate
        tp, fp = np.sum(called & truth), np.sum(called & ~truth)
        if criterion == "f1":
            scores.append(2 * tp / (tp + fp + truth.sum()))
        else:
            scores.append(tp / truth.sum() - fp / np.sum(~truth))
    best = np.flatnonzero(np.isclose(scores, max(scores), rtol=0, atol=1e-12))
    chosen = int(best[(len(best) - 1) // 2])
    return float((candidates[chosen] + candidates[chosen - 1]) / 2 if chosen else candidates[0])


def _checked(reference: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, values = np.asarray(reference), np.asarray(score, float)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"{truth.shape} classes for scores of shape {values.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("a two-class reference holds 0 and 1 only")
    if not np.isfinite(values).all():
        raise ValueError("scores are finite numbers")
    return truth.astype(bool), values


def _ranks(values: NDArray) -> NDArray[np.float64]:
    """Ranks from 1, equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
