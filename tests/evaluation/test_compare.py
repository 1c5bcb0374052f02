"""Evaluations of classes and of landmarks, compared; those of masks are in `test_masks.py`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from mambamed import api
from mambamed.errors import DatasetError
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.evaluation.compare import compare
from mambamed.evaluation.points import evaluate_points
from mambamed.evaluation.read_back import Evaluated, Question
from mambamed.io.points import write_points
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.metrics.auc import auc_difference

CASES = tuple(f"c{number:02}" for number in range(12))
TRUTH = np.array([0, 1] * 6)


def table(path: Path, positive: np.ndarray, classes=("NC", "AD"), cases=CASES) -> None:
    values = np.column_stack([1 - positive, positive])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_probabilities(path, Probabilities(classes, cases, values, 0.5, True))


def reference(folder: Path, names=None) -> Path:
    path = folder / "classes.csv"
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [("NC", "AD")[k] for k in TRUTH]
    path.write_text("case,class\n" + "".join(f"{c},{n}\n" for c, n in zip(CASES, names, strict=True)))
    return path


def delong(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference of the areas and its z, by the definition: DeLong 1988, eq. 3 to 7, pair by pair."""

    def components(score: np.ndarray) -> tuple[list[float], list[float]]:
        x, y = score[truth == 1], score[truth == 0]
        kernel = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        return kernel.mean(1), kernel.mean(0)

    (v1, w1), (v2, w2) = components(first), components(second)
    s10, s01 = np.cov(v1, v2), np.cov(w1, w2)
    covariance = s10 / len(v1) + s01 / len(w1)
    contrast = np.array([-1, 1])
    difference = float(np.mean(v2) - np.mean(v1))
    return difference, difference / math.sqrt(contrast @ covariance @ contrast)


def test_the_test_of_two_areas_is_delongs() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(0, 2, 40)
    first, second = (np.round(0.4 * truth + random.random(40), 1) for _ in range(2))
    found = auc_difference(truth, [first], [second])
    difference, z = delong(truth, first, second)
    assert found.second - found.first == pytest.approx(difference)
    assert found.first == pytest.approx(sklearn.roc_auc_score(truth, first))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.959964 * difference / z, rel=1e-6)
    assert auc_difference(truth, [first], [first]).p == 1
    assert math.isnan(auc_difference(np.ones(4), [first[:4]], [first[:4]]).p)


def test_classifiers_are_compared_case_by_case(tmp_path) -> None:
    random = np.random.default_rng(1)
    good = np.clip(0.5 + 0.6 * (TRUTH - 0.5) + random.normal(0, 0.1, 12), 0, 1)
    poor = np.where(np.arange(12) < 5, 1 - good, good)  # wrong in the first five
    truth = reference(tmp_path)
    for name, positive in (("poor", poor), ("good", good)):
        table(tmp_path / f"{name}.csv", positive)
        evaluate_probabilities(tmp_path / f"{name}.csv", truth, output=tmp_path / f"eval_{name}")
    found = compare([tmp_path / "eval_poor", tmp_path / "eval_good"], output=tmp_path / "out")
    accuracy, brier, auc = found.differences
    assert [d.metric for d in found.differences] == ["accuracy", "brier", "auc"]
    assert accuracy.means == pytest.approx((7 / 12, 1.0))
    # The sign-flip test of right and wrong is the exact McNemar test: five of five cases for the second.
    assert accuracy.test.permutation_p == pytest.approx(stats.binomtest(5, 5).pvalue)
    assert brier.means[1] == pytest.approx(sklearn.brier_score_loss(TRUTH, good))
    assert auc.means == pytest.approx([sklearn.roc_auc_score(TRUTH, each) for each in (poor, good)])
    assert (
        auc.delong_p == auc.delong_holm == pytest.approx(2 * stats.norm.sf(abs(delong(TRUTH, poor, good)[1])))
    )
    assert "p (DeLong, Holm)" in found.table.headers
    assert "delong_p" in (tmp_path / "out" / "comparison.csv").read_text()


def test_a_second_row_of_every_person_changes_no_interval_and_no_test(tmp_path) -> None:
    random = np.random.default_rng(7)
    models = [np.clip(0.3 * TRUTH + 0.7 * random.random(12), 0, 1) for _ in range(2)]
    found = []
    for visits in (1, 2):
        root, cases = tmp_path / str(visits), [f"{case}v{k}" for k in range(visits) for case in CASES]
        rows = [f"{case},{('NC', 'AD')[TRUTH[k % 12]]},{CASES[k % 12]}" for k, case in enumerate(cases)]
        root.mkdir()
        (root / "classes.csv").write_text("\n".join(["case,class,subject", *rows]))
        intervals = []
        for k, positive in enumerate(models):
            table(root / f"{k}.csv", np.tile(positive, visits), cases=tuple(cases))
            run = evaluate_probabilities(root / f"{k}.csv", root / "classes.csv", output=root / f"e{k}").runs[
                0
            ]
            intervals.append(run.intervals["auc"])
        found.append((intervals, compare([root / "e0", root / "e1"]).differences[2]))
    (once, first), (twice, second) = found
    assert np.array(twice) == pytest.approx(np.array(once))
    assert (second.delong_p, second.test.pairs) == (pytest.approx(first.delong_p), 12)


def test_subjects_that_one_evaluation_knows_are_those_of_all(tmp_path) -> None:
    random = np.random.default_rng(8)
    rows = [f"{case},{('NC', 'AD')[TRUTH[k]]}" for k, case in enumerate(CASES)]
    (tmp_path / "plain.csv").write_text("\n".join(["case,class", *rows]))
    for name, size in (("two", 2), ("three", 3)):
        lines = [f"{row},p{k // size}" for k, row in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["case,class,subject", *lines]))
    for k in range(2):
        table(tmp_path / f"{k}.csv", np.clip(0.3 * TRUTH + 0.7 * random.random(12), 0, 1))
        for name in ("plain", "two", "three"):
            evaluate_probabilities(
                tmp_path / f"{k}.csv", tmp_path / f"{name}.csv", output=tmp_path / f"{name}_{k}"
            )
    both = compare([tmp_path / "two_0", tmp_path / "two_1"]).differences
    mixed = compare([tmp_path / "plain_0", tmp_path / "two_1"]).differences
    assert [d.test for d in mixed] == [d.test for d in both] and both[0].test.pairs == 6
    with pytest.raises(DatasetError, match=r"c02 is of the subject p1 in two_0, but of p0 in three_1"):
        compare([tmp_path / "two_0", tmp_path / "three_1"])


def test_seeds_of_a_classifier_count_by_their_mean(tmp_path) -> None:
    random = np.random.default_rng(2)
    seeds = [np.clip(0.3 * TRUTH + 0.7 * random.random(12), 0, 1) for _ in range(4)]
    for number, positive in enumerate(seeds):
        table(tmp_path / f"model{number // 2}" / f"seed{number % 2}.csv", positive)
    folders = []
    for model in ("model0", "model1"):
        evaluate_probabilities(tmp_path / model, reference(tmp_path), output=tmp_path / f"eval_{model}")
        folders.append(tmp_path / f"eval_{model}")
    auc = compare(folders).differences[2]
    areas = [sklearn.roc_auc_score(TRUTH, each) for each in seeds]
    assert auc.means == pytest.approx((np.mean(areas[:2]), np.mean(areas[2:])))


def test_three_classes_have_no_area_to_compare(tmp_path) -> None:
    names = ["a", "b", "c"] * 4
    values = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    write_probabilities(tmp_path / "p.csv", Probabilities(("a", "b", "c"), CASES, values, None, False))
    for name in ("one", "two"):
        evaluate_probabilities(tmp_path / "p.csv", reference(tmp_path, names), output=tmp_path / name)
    found = compare([tmp_path / "one", tmp_path / "two"])
    assert [d.metric for d in found.differences] == ["accuracy", "brier"]
    assert all(d.test.mean_difference == 0 for d in found.differences)
    truth = np.eye(3)[[("a", "b", "c").index(name) for name in names]]
    assert found.differences[1].means[0] == pytest.approx(np.mean(((values - truth) ** 2).sum(1)))


def points(folder: Path, places: dict[str, dict[str, tuple[float, float, float]]]) -> Path:
    for case, each in places.items():
        write_points(folder / f"{case}.json", each)
    return folder


def test_landmarks_are_compared_over_what_both_found_and_misses_fail(tmp_path) -> None:
    """By hand: errors 1 and 3 mm of `a`; `b` is missed once by the first, and 5 mm off to the second."""
    origin = (0.0, 0.0, 0.0)
    truth = points(tmp_path / "truth", {"p": {"a": origin, "b": origin}, "q": {"a": origin}})
    first = points(tmp_path / "first", {"p": {"a": (1, 0, 0)}, "q": {"a": (3, 0, 0)}})
    second = points(tmp_path / "second", {"p": {"a": origin, "b": (5, 0, 0)}, "q": {"a": (3, 0, 0)}})
    for folder in (first, second):
        evaluate_points(folder, truth, output=tmp_path / f"eval_{folder.name}", report=False)
    found = api.compare([tmp_path / "eval_first", tmp_path / "eval_second"])
    by_question = {(d.region, d.metric): d for d in found.differences}
    assert by_question["all", "error_mm"].means == pytest.approx((2.0, 1.5))
    assert by_question["a", "error_mm"].test.pairs == 2
    assert by_question["b", "error_mm"].test.pairs == 0
    # Of three points the first places one within 2 mm, the second one as well; within 3 mm both place two.
    assert by_question["all", "sdr_2mm"].means == pytest.approx((1 / 3, 1 / 3))
    assert by_question["all", "sdr_3mm"].means == pytest.approx((2 / 3, 2 / 3))
    assert found.ranks.headers[2] == "points"


def test_what_is_not_alike_is_never_compared(tmp_path) -> None:
    truth = reference(tmp_path)
    table(tmp_path / "p.csv", TRUTH * 0.5 + 0.2)
    evaluate_probabilities(tmp_path / "p.csv", truth, output=tmp_path / "classes_a")
    origin = {"p": {"a": (0.0, 0.0, 0.0)}}
    folder = points(tmp_path / "points", origin)
    evaluate_points(folder, folder, output=tmp_path / "landmarks", report=False)
    with pytest.raises(DatasetError, match="classes_a evaluates classification, but landmarks landmarks"):
        compare([tmp_path / "classes_a", tmp_path / "landmarks"])
    other = reference(tmp_path / "other", ["AD", "NC"] * 6)
    evaluate_probabilities(tmp_path / "p.csv", other, output=tmp_path / "classes_b")
    with pytest.raises(DatasetError, match="c00 is NC in classes_a, but AD in classes_b"):
        compare([tmp_path / "classes_a", tmp_path / "classes_b"])
    table(tmp_path / "few.csv", TRUTH[:6] * 0.5 + 0.2, cases=CASES[:6])
    evaluate_probabilities(tmp_path / "few.csv", truth, output=tmp_path / "few", only_predicted=True)
    line = r"different cases \(only some have c06.* of classes_a\).* the 6 common ones"
    with pytest.raises(DatasetError, match=line):
        compare([tmp_path / "classes_a", tmp_path / "few"])
    assert compare([tmp_path / "classes_a", tmp_path / "few"], common=True).differences[0].test.pairs == 6


def test_two_names_of_one_spelling_stay_two() -> None:
    questions = tuple(Question(name, "error_mm", False) for name in ("N", "n", "chin"))
    values = {("u", name, "error_mm"): k for k, name in enumerate(("N", "n", "chin"))}
    both = Evaluated("x", "landmarks", questions, values, {}, {}, "")
    found = both.respelled(["N", "Chin"])
    assert [question.region for question in found.questions] == ["N", "n", "Chin"]
    assert found.values == {
        ("u", "N", "error_mm"): 0,
        ("u", "n", "error_mm"): 1,
        ("u", "Chin", "error_mm"): 2,
    }
