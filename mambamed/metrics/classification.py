"""Class probabilities against the true classes: accuracy, ranking, calibration.

A metric is a function of this file and a row of `BINARY_METRICS` or `MULTICLASS_METRICS`. Undefined ratios
are NaN (e.g. precision without positive predictions), never 0. A threshold is given or chosen on validation
cases (`choose_threshold`), never on those that are scored.

A case without an answer is wrong in accuracy, sensitivity, specificity, recall and F1: it has no class.
Metrics of probabilities (AUC, average precision, Brier score, calibration error) are over the answered cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mambamed.metrics.auc import Subjects, auc, auc_interval, checked

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class BinaryScores:
    """Scores of two classes; the second one is "positive"."""

    cases: int
    positives: int
    threshold: float  # a probability at or above it is predicted positive
    values: Mapping[str, float]  # every metric of `BINARY_METRICS`
    auc_interval: tuple[float, float]  # confidence interval of the AUC, by subject


@dataclass(frozen=True)
class MulticlassScores:
    """Scores of three or more classes; "macro" means that each class has the same weight."""

    cases: int
    values: Mapping[str, float]  # every metric of `MULTICLASS_METRICS`
    confusion: NDArray[np.int64]  # `(K, K)` cases of reference class i predicted as j


@dataclass(frozen=True)
class BinaryAnswers:
    """Input of a binary metric: `(n,)` truth and probability of class 1, and counts at the threshold.

    Attributes:
        positives, negatives: all cases of each class, with those that have no answer.
    """

    truth: NDArray[np.bool_]
    p: NDArray[np.float64]
    tp: int
    fp: int
    tn: int
    positives: int
    negatives: int


@dataclass(frozen=True)
class MulticlassAnswers:
    """Input of a multiclass metric."""

    truth: NDArray[np.intp]  # `(n,)` class index
    p: NDArray[np.float64]  # `(n, K)`
    predicted: NDArray[np.intp]  # `(n,)` most probable class
    confusion: NDArray[np.int64]  # `(K, K)` cases of class i predicted as j
    missing: NDArray[np.int64]  # `(K,)` cases of each class that have no answer

    @property
    def actual(self) -> NDArray[np.int64]:
        """`(K,)` all cases of each class."""
        return self.confusion.sum(axis=1) + self.missing

    @property
    def per_class(self) -> list[tuple[int, int, int]]:
        """(correct, actual, predicted) cases of each class that occurs in either."""
        columns = (np.diag(self.confusion), self.actual, self.confusion.sum(axis=0))
        return [(h, actual, called) for h, actual, called in zip(*columns, strict=True) if actual + called]


def sensitivity(a: BinaryAnswers) -> float:
    return _ratio(a.tp, a.positives)


def specificity(a: BinaryAnswers) -> float:
    return _ratio(a.tn, a.negatives)


def binary_brier(a: BinaryAnswers) -> float:
    """Mean squared error of the probability of class 1."""
    return float(np.mean((a.p - a.truth) ** 2)) if len(a.p) else math.nan


def binary_calibration_error(a: BinaryAnswers) -> float:
    return calibration_error(np.where(a.p >= 0.5, a.p, 1 - a.p), (a.p >= 0.5) == a.truth)


def multiclass_calibration_error(a: MulticlassAnswers) -> float:
    return calibration_error(a.p.max(axis=1), a.predicted == a.truth)


def balanced_accuracy(a: MulticlassAnswers) -> float:
    """Mean recall of the classes that have cases."""
    return _mean([_ratio(h, actual) for h, actual, _ in a.per_class if actual])


def precision_macro(a: MulticlassAnswers) -> float:
    # A class that has cases but is never predicted counts as 0, as in F1.
    return _mean([_ratio(h, called) if called else 0.0 for h, _, called in a.per_class])


def recall_macro(a: MulticlassAnswers) -> float:
    return _mean([_ratio(h, actual) if actual else 0.0 for h, actual, _ in a.per_class])


def f1_macro(a: MulticlassAnswers) -> float:
    return _mean([_ratio(2 * h, actual + called) for h, actual, called in a.per_class])


def auc_macro(a: MulticlassAnswers) -> float:
    """Mean over the classes of each against the rest."""
    return _mean([auc(a.truth == k, a.p[:, k]) for k in range(a.p.shape[1])])


def multiclass_brier(a: MulticlassAnswers) -> float:
    """Mean over cases of the squared distance of the probabilities to the true class."""
    k = a.p.shape[1]
    return float(np.mean(np.sum((a.p - np.eye(k)[a.truth]) ** 2, axis=1))) if len(a.p) else math.nan


def score_binary(
    reference: ArrayLike,
    probability: ArrayLike,
    threshold: float = 0.5,
    level: float = 0.95,
    missing: tuple[int, int] = (0, 0),
    subjects: Subjects = None,
) -> BinaryScores:
    """Score the `(n,)` probabilities of class 1 for a `(n,)` reference of 0 and 1.

    Args:
        level: confidence of the AUC's interval.
        missing: number of further cases of class 0 and 1, which have no probability.
        subjects: of the `(n,)` cases (default: every case its own).

    Raises ValueError for different lengths, or other values.
    """
    truth, p = checked(reference, probability)
    called = p >= threshold
    tp, fp, tn = (int(np.sum(each)) for each in (called & truth, called & ~truth, ~called & ~truth))
    negatives, positives = int(np.sum(~truth)) + missing[0], int(np.sum(truth)) + missing[1]
    answers = BinaryAnswers(truth, p, tp, fp, tn, positives, negatives)
    values = {name: metric.function(answers) for name, metric in BINARY_METRICS.items()}
    interval = auc_interval(truth, p, level, subjects)[1]
    return BinaryScores(positives + negatives, positives, threshold, values, interval)


def score_multiclass(
    reference: ArrayLike, probabilities: ArrayLike, missing: ArrayLike | None = None
) -> MulticlassScores:
    """Score `(n, K)` class probabilities, rows of which sum to 1, for `(n,)` class indices.

    `missing` are `(K,)` numbers of further cases of each class, which have no probabilities.

    Raises ValueError for other shapes, or a class index that is not among the K.
    """
    truth, p = np.asarray(reference, np.intp), np.asarray(probabilities, float)
    if p.ndim != 2 or truth.shape != (len(p),):
        raise ValueError(f"{truth.shape} classes for probabilities of shape {p.shape}")
    k = p.shape[1]
    if truth.size and not 0 <= truth.min() <= truth.max() < k:
        raise ValueError(f"class {truth.max()} is not among the {k} of the probabilities")
    predicted = p.argmax(axis=1)
    confusion = np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)
    absent = np.zeros(k, np.int64) if missing is None else np.asarray(missing, np.int64)
    answers = MulticlassAnswers(truth, p, predicted, confusion, absent)
    values = {name: metric.function(answers) for name, metric in MULTICLASS_METRICS.items()}
    return MulticlassScores(len(truth) + int(absent.sum()), values, confusion)


def roc_curve(reference: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1).

    Both are empty if there is only one class.

    >>> [rates.tolist() for rates in roc_curve([0, 1, 1], [0.2, 0.2, 0.9])]
    [[0.0, 0.0, 1.0], [0.0, 0.5, 1.0]]
    """
    truth, values = checked(reference, score)
    if truth.all() or not truth.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # the last of equal scores
    hits = np.cumsum(truth[order])[ends]
    false = ends + 1 - hits
    return np.append(0.0, false / np.sum(~truth)), np.append(0.0, hits / np.sum(truth))


def average_precision(reference: ArrayLike, score: ArrayLike) -> float:
    """Sum of precision times the step in recall, over decreasing thresholds; NaN without positives."""
    truth, values = checked(reference, score)
    if not truth.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    hits, sorted_values = np.cumsum(truth[order]), values[order]
    ends = np.flatnonzero(np.append(np.diff(sorted_values) != 0, True))  # the last of equal scores
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(hits[ends], prepend=0) / hits[-1] * precision))


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, open on the left.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3, with 15 bins.
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
    """The threshold that maximizes sensitivity + specificity, or F1, on validation cases.

    The middle one of equally good thresholds, half way to the next lower probability of a case.
    """
    truth, p = checked(reference, probability)
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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


@dataclass(frozen=True)
class ClassMetric:
    """A row of `BINARY_METRICS` or `MULTICLASS_METRICS`.

    `per_case` maps (probabilities of a case, its class index, 1 if predicted correctly, else 0) to a value by
    which models are compared case by case; None if the metric is defined over all cases only.
    """

    title: str  # heading in tables
    function: Callable[[Any], float]  # `BinaryAnswers` or `MulticlassAnswers` -> value
    paper: str = ""  # heading in the tables of papers, in percent; "" if it is not among them
    per_case: Callable[[Sequence[float], int, float], float] | None = None
    higher_is_better: bool = True  # of `per_case`


def _correct(p: Sequence[float], truth: int, correct: float) -> float:
    return correct


def _squared_error(p: Sequence[float], truth: int, correct: float) -> float:
    errors = [(value - (k == truth)) ** 2 for k, value in enumerate(p)]
    return errors[1] if len(p) == 2 else sum(errors)


BINARY_METRICS = {
    "accuracy": ClassMetric(
        "accuracy", lambda a: _ratio(a.tp + a.tn, a.positives + a.negatives), "ACC", _correct
    ),
    "balanced_accuracy": ClassMetric("balanced accuracy", lambda a: (sensitivity(a) + specificity(a)) / 2),
    "sensitivity": ClassMetric("sensitivity", sensitivity, "SEN"),
    "specificity": ClassMetric("specificity", specificity, "SPE"),
    "precision": ClassMetric("precision", lambda a: _ratio(a.tp, a.tp + a.fp), "PRE"),
    "f1": ClassMetric("F1", lambda a: _ratio(2 * a.tp, a.tp + a.fp + a.positives), "F1"),
    "auc": ClassMetric("AUC", lambda a: auc(a.truth, a.p), "AUC"),
    "average_precision": ClassMetric("average precision", lambda a: average_precision(a.truth, a.p)),
    "brier": ClassMetric("Brier score", binary_brier, per_case=_squared_error, higher_is_better=False),
    "ece": ClassMetric("calibration error", binary_calibration_error),
}

MULTICLASS_METRICS = {
    "accuracy": ClassMetric(
        "accuracy", lambda a: _ratio(int(np.trace(a.confusion)), int(a.actual.sum())), "ACC", _correct
    ),
    "balanced_accuracy": ClassMetric("balanced accuracy", balanced_accuracy, "BACC"),
    "precision_macro": ClassMetric("precision (macro)", precision_macro),
    "recall_macro": ClassMetric("recall (macro)", recall_macro),
    "f1_macro": ClassMetric("F1 (macro)", f1_macro, "F1"),
    "auc_macro": ClassMetric("AUC (macro)", auc_macro, "AUC"),
    "brier": ClassMetric("Brier score", multiclass_brier, per_case=_squared_error, higher_is_better=False),
    "ece": ClassMetric("calibration error", multiclass_calibration_error),
}
