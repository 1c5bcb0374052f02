"""Compare evaluations of the same cases, case by case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.documents.evaluation import ComparisonFile
from mambamed.errors import DatasetError
from mambamed.evaluation import read_evaluation
from mambamed.evaluation.paired_cases import check_alike, paired_values, shared_units, subjects_of
from mambamed.evaluation.read_back import ALL, Evaluated
from mambamed.io.atomic import write_text
from mambamed.io.ownership import Output
from mambamed.io.tables import write_csv
from mambamed.metrics.auc import auc_difference
from mambamed.metrics.statistics import PairedTest, holm, mean_ranks, paired_test
from mambamed.report.tables import Table, shown, to_latex, to_markdown
from mambamed.schema_errors import some_of

AUC = "auc"


@dataclass(frozen=True)
class Difference:
    """Two evaluations in one metric of one region."""

    region: str  # a region, a landmark, or "all"
    metric: str
    # first, second: names of the evaluations
    first: str
    second: str
    means: tuple[float, float]  # of both, over the compared cases, including penalties
    test: PairedTest  # paired by subject; the difference is second minus first
    delong_p: float = math.nan  # for AUC, which is tested by DeLong's method, by subject; else NaN
    # wilcoxon_holm, permutation_holm, delong_holm: p corrected for all rows of the comparison
    wilcoxon_holm: float = math.nan
    permutation_holm: float = math.nan
    delong_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    table: Table  # the differences
    ranks: Table  # mean rank of each evaluation, per region and metric
    differences: tuple[Difference, ...]
    output: Path | None  # folder of the files; None if nothing was written


def compare(
    evaluations: Sequence[Path],
    *,
    common: bool = False,
    level: float = 0.95,
    seed: int = 0,
    output: Path | None = None,
) -> Comparison:
    """Compare evaluations of the same cases: paired tests, intervals of differences, ranks.

    Segmentation: infinite distances and cases that could not be scored get the penalty of the evaluation; a
    region in neither mask counts as perfect if another model predicted it, and is excluded if all agree.
    Landmarks: errors are compared over the points that all models found; in the success rate, a miss is a
    failure. Classification: accuracy, Brier score and, for two classes, AUC are compared.

    Args:
        evaluations: two or more folders that `evaluate -o` wrote.
        common: compare only common cases, instead of rejecting evaluations of different cases.
        level: confidence level of the intervals.
        seed: random seed of the bootstrap and the permutation tests.
        output: folder for `comparison.csv`, `comparison.json` and the table as Markdown and LaTeX.

    Raises DatasetError: fewer than two, not such folders, different tasks, cases or rules, no metric in
    common.
    """
    place = None if output is None else Output(output, "comparison", evaluations, edited=("*",))
    if place is not None:
        place.check()
    if len(evaluations) < 2:
        raise DatasetError("compare: expected two or more folders of evaluations. Add one.")
    short = [folder.resolve().name for folder in evaluations]
    # Folders of the same name are named by their paths.
    names = [str(f) if short.count(n) > 1 else n for f, n in zip(evaluations, short, strict=True)]
    read = [read_evaluation(path, name) for path, name in zip(evaluations, names, strict=True)]
    check_alike(read)
    names = list(dict.fromkeys(question.region for question in read[0].questions))
    read = [each.respelled(names) for each in read]
    units = shared_units(read, common)
    questions = [each for each in read[0].questions if all(each in other.questions for other in read[1:])]
    asked = {question.region for question in questions}
    left_out = sorted({q.region for each in read for q in each.questions} - asked)
    if not questions:
        raise DatasetError("compare: no region and metric in common. Evaluate both with the same metrics.")
    people = subjects_of(read, units)
    differences, rank_rows = [], []
    for question in questions:
        kept, values = paired_values(read, units, question)
        subjects = [people[unit] for unit in kept]
        ranks = mean_ranks(values, question.higher_is_better) if kept else [math.nan] * len(read)
        shown_ranks = [f"{rank:.2f}" for rank in ranks]
        rank_rows.append([question.region, question.metric, str(len(kept)), *shown_ranks])
        for (i, a), (j, b) in combinations(enumerate(read), 2):
            test = paired_test(values[i], values[j], subjects, level, seed)
            means = (_mean(values[i]), _mean(values[j]))
            differences.append(Difference(question.region, question.metric, a.name, b.name, means, test))
    if all(evaluated.probabilities for evaluated in read):
        differences += [_auc(a, b, units, people, level) for a, b in combinations(read, 2)]
    corrected = _corrected(differences)
    headers = ["region", "metric", read[0].units, *(evaluated.name for evaluated in read)]
    ranks = Table("mean rank, 1 = best", headers, rank_rows)
    comparison = Comparison(
        _table(corrected, level, read[0].rules, left_out), ranks, tuple(corrected), output
    )
    if place is not None:
        with place.locked():
            _write(comparison, place.folder)
    return comparison


def _auc(
    first: Evaluated, second: Evaluated, units: Sequence[str], people: Mapping[str, str], level: float
) -> Difference:
    """Compare AUC over the cases that are in every table."""
    tables = [*first.probabilities, *second.probabilities]
    cases = [case for case in units if all(case in table for table in tables)]
    truth = [first.truth[case] == first.classes[1] for case in cases]
    scores = [[[table[case] for case in cases] for table in each.probabilities] for each in (first, second)]
    subjects = [people[case] for case in cases]
    found = auc_difference(truth, scores[0], scores[1], level, subjects)
    test = PairedTest(len(set(subjects)), found.second - found.first, found.interval, math.nan, math.nan)
    return Difference(ALL, AUC, first.name, second.name, (found.first, found.second), test, found.p)


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    wilcoxon = holm([d.test.wilcoxon_p for d in differences])
    permutation = holm([d.test.permutation_p for d in differences])
    delong = holm([d.delong_p for d in differences])
    return [
        replace(d, wilcoxon_holm=w, permutation_holm=p, delong_holm=a)
        for d, w, p, a in zip(differences, wilcoxon, permutation, delong, strict=True)
    ]


def _table(
    differences: Sequence[Difference], level: float, rules: str, left_out: Sequence[str] = ()
) -> Table:
    headers = [
        "region", "metric", "first", "second", "difference", f"{level:.0%} CI", "pairs",
        "p (Wilcoxon, Holm)", "p (permutation, Holm)",
    ]  # fmt: skip
    by_delong = any(d.metric == AUC for d in differences)
    headers += ["p (DeLong, Holm)"] if by_delong else []
    rows = []
    for d in differences:
        low, high = d.test.interval
        first, second = f"{d.first} {shown(d.means[0])}", f"{d.second} {shown(d.means[1])}"
        change = "-" if math.isnan(d.test.mean_difference) else f"{d.test.mean_difference:+.4g}"
        interval = "-" if math.isnan(low) else f"{low:+.4g} to {high:+.4g}"
        tests = [_p(d.wilcoxon_holm), _p(d.permutation_holm), *([_p(d.delong_holm)] if by_delong else [])]
        rows.append([d.region, d.metric, first, second, change, interval, str(d.test.pairs), *tests])
    notes = [
        "difference = second minus first; paired by subject; p-values corrected for all rows (Holm)",
        *(["AUC: DeLong's interval and test, by subject (Obuchowski 1997)"] if by_delong else []),
        *([f"not in all evaluations, left out: {some_of(left_out)}"] if left_out else []),
        rules,
    ]
    return Table("Comparison", headers, rows, notes)


def _write(comparison: Comparison, output: Path) -> None:
    headers = [
        "region", "metric", "first", "second", "mean_first", "mean_second", "difference", "ci_low", "ci_high",
        "pairs", "wilcoxon_p", "permutation_p", "wilcoxon_holm", "permutation_holm", "delong_p",
        "delong_holm",
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [
            d.region, d.metric, d.first, d.second, *d.means, d.test.mean_difference, *d.test.interval,
            d.test.pairs, d.test.wilcoxon_p, d.test.permutation_p, d.wilcoxon_holm, d.permutation_holm,
            d.delong_p, d.delong_holm,
        ]
        for d in comparison.differences
    ]  # fmt: skip
    write_csv(output / "comparison.csv", headers, rows)
    write_text(output / "comparison.md", to_markdown(comparison.table))
    write_text(output / "comparison.tex", to_latex(comparison.table))
    write_csv(output / "ranks.csv", comparison.ranks.headers, comparison.ranks.rows)
    path = output / "comparison.json"
    ComparisonFile.checked({"differences": [asdict(d) for d in comparison.differences]}, path).write(path)


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan
