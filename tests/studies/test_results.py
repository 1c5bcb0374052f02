"""Means over seeds, averages over structures, tests and ranks, by hand and against `compare`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from mambamed.errors import DatasetError
from mambamed.evaluation.read_back import Evaluated, Question
from mambamed.recipe import Recipe
from mambamed.studies.plan import StudyCell, Trained
from mambamed.studies.results import ScoredCell, joined, results_of

CASES = [f"c{number}" for number in range(8)]


def evaluated(values: dict[str, list[float]], cases: list[str] = CASES) -> Evaluated:
    """Dice per structure, one value per case."""
    questions = tuple(Question(name, "dice", higher_is_better=True, absent=1.0) for name in values)
    table = {
        (case, name, "dice"): v for name, each in values.items() for case, v in zip(cases, each, strict=True)
    }
    people = {case: case for case in cases}
    regions = {name: (number + 1,) for number, name in enumerate(values)}
    return Evaluated("e", "segmentation", questions, table, people, people, "rules", regions=regions)


def cell(name: str, seed: int, paper: dict[str, float]) -> StudyCell:
    recipe = Recipe.model_validate({"network": {"name": "nnunet"}, "paper": paper})
    return StudyCell(Trained("d", name, recipe, ()), seed, (0,), Path("p"), Path("r"), "val")


def scored(name: str, seed: int, values: dict[str, list[float]], **paper: float) -> ScoredCell:
    return ScoredCell(cell(name, seed, paper), evaluated(values), {})


def found(results, name: str, region: str):
    return next(s for s in results.scores if (s.recipe, s.region) == (name, region))


def test_means_over_seeds_and_structures_by_hand() -> None:
    random = np.random.default_rng(0)
    left, right = random.uniform(0.5, 0.9, (2, 2, 8))  # seed, case
    other = random.uniform(0.4, 0.8, (2, 8))
    runs = [
        scored("a", seed, {"left": left[k].tolist(), "right": right[k].tolist()}, left=80.0, Average=75.0)
        for k, seed in enumerate((0, 5))
    ]
    runs.append(scored("b", 0, {"left": other[0].tolist(), "right": other[1].tolist()}))
    rows = [run.cell.trained for run in (runs[0], runs[2])]
    results = results_of("d", rows, runs, 0.95)
    a, whole = found(results, "a", "left"), found(results, "a", "average")
    assert a.seeds == {"0": pytest.approx(left[0].mean()), "5": pytest.approx(left[1].mean())}
    assert a.mean == pytest.approx(left.mean()) and a.paper == 0.8 and whole.paper == 0.75
    assert a.sd == pytest.approx(abs(left[0].mean() - left[1].mean()) / math.sqrt(2))
    assert whole.mean == pytest.approx((left.mean() + right.mean()) / 2) and whole.units == 8
    mean, theirs = (left.mean(0) + right.mean(0)) / 2, other.mean(0)
    assert whole.interval[0] < mean.mean() < whole.interval[1]
    assert whole.rank == pytest.approx(np.where(mean > theirs, 1, 2).mean())
    b = found(results, "b", "average")
    assert math.isnan(b.sd) and b.paper is None
    test = next(t for t in results.differences if t.region == "average")
    assert (test.first, test.second, test.subjects) == ("a", "b", 8)
    assert test.difference == pytest.approx((theirs - mean).mean())
    assert test.seeds == {"0": pytest.approx(theirs.mean() - (left[0].mean() + right[0].mean()) / 2)}
    assert test.wilcoxon_holm == pytest.approx(wilcoxon(theirs - mean).pvalue)  # alone in its family
    single = {t.region: t for t in results.differences if t.region != "average"}
    raw = {
        "left": wilcoxon(other[0] - left.mean(0)).pvalue,
        "right": wilcoxon(other[1] - right.mean(0)).pvalue,
    }
    smaller = min(raw, key=lambda name: raw[name])
    assert single[smaller].wilcoxon_holm == pytest.approx(min(1, 2 * raw[smaller]))  # Holm's first of two


def test_a_structure_in_no_mask_does_not_count_in_the_average_of_its_case() -> None:
    missing = [math.nan] + [0.5] * 7
    runs = [scored("a", 0, {"left": [0.75] * 8, "right": missing})]
    results = results_of("d", [runs[0].cell.trained], runs, 0.95)
    assert found(results, "a", "average").mean == pytest.approx((0.75 + 7 * 0.625) / 8)
    assert found(results, "a", "right").units == 7 and results.differences == ()


def test_one_recipe_may_be_the_only_one_that_others_are_tested_against() -> None:
    runs = [scored(name, 0, {"left": [0.1 * (k + 1)] * 8}) for k, name in enumerate("abc")]
    rows = [run.cell.trained for run in runs]
    assert len(results_of("d", rows, runs, 0.95).differences) == 6  # of the structure and of the average
    pairs = {(t.first, t.second) for t in results_of("d", rows, runs, 0.95, "b").differences}
    assert pairs == {("a", "b"), ("b", "c")}


def test_runs_on_different_cases_are_rejected_and_folds_may_not_share_a_case() -> None:
    one, other = scored("a", 0, {"left": [0.5] * 8}), scored("b", 0, {"left": [0.5] * 8})
    fewer = replace(other, evaluated=evaluated({"left": [0.5] * 7}, CASES[:7]))
    with pytest.raises(DatasetError, match="cover different cases"):
        results_of("d", [one.cell.trained, other.cell.trained], [one, fewer], 0.95)
    first, second = evaluated({"left": [0.1, 0.2]}, ["x", "y"]), evaluated({"left": [0.3]}, ["z"])
    whole = joined([first, second], "both")
    assert list(whole.cases) == ["x", "y", "z"] and whole.values["z", "left", "dice"] == 0.3
    with pytest.raises(DatasetError, match="x is scored in two folds"):
        joined([first, first], "both")


def test_the_area_under_the_curve_has_the_test_of_delong() -> None:
    random = np.random.default_rng(1)
    truth = {case: "ill" if number % 2 else "well" for number, case in enumerate(CASES)}
    people = {case: case for case in CASES}

    def run(name: str, noise: float) -> ScoredCell:
        chances = {case: float((truth[case] == "ill") + random.normal(0, noise)) for case in CASES}
        question = Question("all", "accuracy", higher_is_better=True)
        values = {
            (case, "all", "accuracy"): float((p > 0.5) == (truth[case] == "ill"))
            for case, p in chances.items()
        }
        table = Evaluated(
            name, "classification", (question,), values, people, people, "rules",
            truth=truth, classes=("well", "ill"), probabilities=(chances,),
        )  # fmt: skip
        recipe = Recipe.model_validate(
            {"task": "classification", "network": {"name": "resnet"}, "paper": {"AUC": 90.0}}
        )
        place = StudyCell(Trained("d", name, recipe, ()), 0, (0,), Path("p"), Path("r"), "val")
        return ScoredCell(place, table, {"auc": 0.5 if noise > 1 else 0.9, "accuracy": 0.7})

    runs = [run("sharp", 0.1), run("noisy", 2.0)]
    results = results_of("d", [each.cell.trained for each in runs], runs, 0.95)
    score = next(s for s in results.scores if s.metric == "auc" and s.recipe == "sharp")
    assert score.mean == 0.9 and score.paper == 0.9 and math.isnan(score.interval[0])
    test = next(t for t in results.differences if t.metric == "auc")
    assert 0 < test.delong_holm < 1 and math.isnan(test.wilcoxon_holm)
    assert test.seeds == {"0": pytest.approx(-0.4)}
