"""Temperature scaling: calibrates the probabilities of a classifier on validation cases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST_CASES = 10  # fewer say nothing about confidence
LARGEST = 20.0


def fit_temperature(logits: ArrayLike, reference: ArrayLike) -> float | None:
    """The number by which logits are divided to maximize the likelihood of their softmax.

    Ranking and most probable class do not change. If every case is classified correctly, the likelihood would
    only increase the confidence, so the temperature is at least 1. Source: Guo et al. 2017, arXiv:1706.04599.

    Args:
        logits: `(n, K)` of validation cases.
        reference: `(n,)` class index.

    Returns: The temperature; None for fewer than ten cases or cases of a single class. ValueError for other
    shapes or logits that are not finite.

    >>> logits = np.array([[4.0, 0.0]] * 10 + [[0.0, 4.0]] * 10)
    >>> round(fit_temperature(logits, [0] * 7 + [1] * 3 + [1] * 7 + [0] * 3), 3)  # 4 / ln(7/3)
    4.721
    """
    scores, truth = np.asarray(logits, float), np.asarray(reference, np.intp)
    if scores.ndim != 2 or truth.shape != (len(scores),):
        raise ValueError(f"{truth.shape} classes for logits of shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("logits are finite numbers")
    if len(truth) < FEWEST_CASES or len(np.unique(truth)) < 2:
        return None
    from scipy.optimize import minimize_scalar

    def unlikelihood(log_temperature: float) -> float:
        chances = softmax(scores / np.exp(log_temperature))[np.arange(len(truth)), truth]
        return float(-np.mean(np.log(np.maximum(chances, 1e-300))))

    all_right = bool((scores.argmax(axis=1) == truth).all())
    low = 0.0 if all_right else -np.log(LARGEST)
    # In 1/T it is convex, so there is one minimum.
    found: Any = minimize_scalar(unlikelihood, bounds=(low, np.log(LARGEST)), method="bounded")
    best = min((low, float(found.x)), key=unlikelihood) if all_right else float(found.x)
    return float(np.exp(best))


def fit_binary_temperature(logits: ArrayLike, reference: ArrayLike) -> float | None:
    """`fit_temperature` for the sigmoid of `(n,)` logits and `(n,)` true or false."""
    scores = np.asarray(logits, float)
    return fit_temperature(np.stack([np.zeros_like(scores), scores], axis=-1), reference)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(..., K)` logits -> probabilities that sum to 1.

    >>> softmax(np.array([0.0, np.log(3.0)])).round(2).tolist()
    [0.25, 0.75]
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
