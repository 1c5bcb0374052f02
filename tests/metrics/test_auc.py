"""Areas of repeated measurements: the formulas of Obuchowski 1997 term by term, and a simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from mambamed.metrics.auc import auc_difference, auc_interval

Z = 1.959963984540054


def obuchowski(truth, scores, subjects) -> tuple[list[float], np.ndarray]:
    """Areas and their covariance matrix; Obuchowski 1997, Biometrics 53:567, section 2, with loops."""
    clusters = sorted(set(subjects))
    m, n = sum(truth), len(truth) - sum(truth)
    areas, sums10, sums01 = [], [], []
    for score in scores:
        positive = [(s, c) for s, t, c in zip(score, truth, subjects, strict=True) if t]
        negative = [(s, c) for s, t, c in zip(score, truth, subjects, strict=True) if not t]
        psi = [[1.0 if a > b else 0.5 if a == b else 0.0 for b, _ in negative] for a, _ in positive]
        area = sum(map(sum, psi)) / (m * n)
        v10 = [sum(row) / n for row in psi]
        v01 = [sum(psi[i][k] for i in range(m)) / m for k in range(n)]
        of10 = {c: [v for v, (_, owner) in zip(v10, positive, strict=True) if owner == c] for c in clusters}
        of01 = {c: [v for v, (_, owner) in zip(v01, negative, strict=True) if owner == c] for c in clusters}
        sums10.append([sum(of10[c]) - len(of10[c]) * area for c in clusters])
        sums01.append([sum(of01[c]) - len(of01[c]) * area for c in clusters])
        areas.append(area)
    i10 = len({c for c, t in zip(subjects, truth, strict=True) if t})
    i01 = len({c for c, t in zip(subjects, truth, strict=True) if not t})
    i = len(clusters)

    def s(a, b, factor):
        return factor * sum(x * y for x, y in zip(a, b, strict=True))

    covariance = np.empty((len(scores), len(scores)))
    for r in range(len(scores)):
        for q in range(len(scores)):
            s10 = s(sums10[r], sums10[q], i10 / ((i10 - 1) * m))
            s01 = s(sums01[r], sums01[q], i01 / ((i01 - 1) * n))
            s11 = s(sums10[r], sums01[q], i / (i - 1)) + s(sums10[q], sums01[r], i / (i - 1))
            covariance[r, q] = s10 / m + s01 / n + s11 / (m * n)
    return areas, covariance


def repeated() -> tuple[list[int], list[list[float]], list[int]]:
    """Persons with one to four visits, some of both classes; scores with ties."""
    random = np.random.default_rng(3)
    subjects = [person for person in range(15) for _ in range(person % 4 + 1)]
    truth = [int(random.random() < 0.5) for _ in subjects]
    effect = random.normal(size=15)
    scores = [
        [round(t + effect[p] + random.normal(), 1) for t, p in zip(truth, subjects, strict=True)]
        for _ in range(2)
    ]
    return truth, scores, subjects


def test_the_interval_is_obuchowskis() -> None:
    truth, scores, subjects = repeated()
    areas, covariance = obuchowski(truth, scores, subjects)
    for score, area, variance in zip(scores, areas, np.diag(covariance), strict=True):
        found, (low, high) = auc_interval(truth, score, subjects=subjects)
        assert found == pytest.approx(area)
        assert (low, high) == pytest.approx((area - Z * math.sqrt(variance), area + Z * math.sqrt(variance)))


def test_the_test_of_two_areas_is_obuchowskis() -> None:
    truth, scores, subjects = repeated()
    areas, covariance = obuchowski(truth, scores, subjects)
    found = auc_difference(truth, [scores[0]], [scores[1]], subjects=subjects)
    sd = math.sqrt(np.array([-1, 1]) @ covariance @ np.array([-1, 1]))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(areas[1] - areas[0]) / sd))
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * Z * sd)


def test_rows_that_repeat_a_person_add_nothing() -> None:
    random = np.random.default_rng(5)
    truth = np.arange(30) % 2
    score, other = truth + random.normal(size=30), truth + random.normal(size=30)
    once = auc_interval(truth, score, subjects=range(30))
    assert once == auc_interval(truth, score)  # DeLong's
    people = [*range(30), *range(30)]
    twice = auc_interval(np.tile(truth, 2), np.tile(score, 2), subjects=people)
    assert twice == (pytest.approx(once[0]), pytest.approx(once[1]))
    narrow = auc_interval(np.tile(truth, 2), np.tile(score, 2))
    assert narrow[1][1] - narrow[1][0] < 0.75 * (once[1][1] - once[1][0])
    p = auc_difference(truth, [score], [other]).p
    tiled = [np.tile(each, 2) for each in (score, other)]
    assert auc_difference(np.tile(truth, 2), [tiled[0]], [tiled[1]], subjects=people).p == pytest.approx(p)


def test_the_interval_covers_the_true_area_of_simulated_persons() -> None:
    """Two visits per person: score = class + person + noise, so the area is Phi(1 / sqrt(2 (1 + 0.09)))."""
    random, area = np.random.default_rng(0), stats.norm.cdf(1 / math.sqrt(2 * 1.09))
    covered = {"clustered": 0, "plain": 0}
    people = np.repeat(np.arange(80), 2)
    truth = people % 2
    for _ in range(400):
        score = truth + random.normal(size=80)[people] + 0.3 * random.normal(size=160)
        for name, subjects in (("clustered", people.tolist()), ("plain", None)):
            _, (low, high) = auc_interval(truth, score, subjects=subjects)
            covered[name] += low < area < high
    assert 0.92 <= covered["clustered"] / 400 <= 0.98
    assert covered["plain"] / 400 < 0.9


def test_one_person_of_a_class_has_no_interval() -> None:
    assert math.isnan(auc_interval([1, 1, 0, 0], [0.9, 0.4, 0.3, 0.5], subjects=list("aabc"))[1][0])
