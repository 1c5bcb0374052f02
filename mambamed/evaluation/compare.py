"""Do models really differ? Evaluations of the same cases, compared case by case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.errors import DatasetError
from mambamed.io.atomic import write_text
from mambamed.io.documents import read_json, write_json
from mambamed.io.tables import read_csv, write_csv
from mambamed.metrics import METRICS, Metric, parse_metric
from mambamed.metrics.statistics import PairedTest, holm, mean_ranks, paired_test
from mambamed.report.tables import Table, shown, to_latex, to_markdown

FORMAT = 1


@dataclass(frozen=True)
class Difference:
    """Two evaluations in one metric of one region.

    Attributes:
        region, metric: what was compared.
        first, second: names of the evaluations.
        means: of both, over the cases compared, penalties included.
        test: paired over subjects; the difference is second minus first.
        wilcoxon_holm, permutation_holm: p corrected for all questions of this comparison.
    """

    region: str
    metric: str
    first: str
    second: str
    means: tuple[float, float]
    test: PairedTest
    wilcoxon_holm: float = math.nan
    permutation_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        table: the differences for people.
        ranks: mean rank of each evaluation, region by metric.
        differences: all of them.
        output: folder of the files; None where nothing was written.
    """

    table: Table
    ranks: Table
    differences: tuple[Difference, ...]
    output: Path | None


@dataclass(frozen=True)
class _Evaluated:
    """An evaluation read back from its folder: (case, region, metric) -> value, with penalties put in."""

    name: str
    values: Mapping[tuple[str, str, str], float]
    subjects: Mapping[str, str]
    regions: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rules: str


def compare(
    evaluations: Sequence[Path],
    *,
    common: bool = False,
    level: float = 0.95,
    seed: int = 0,
    output: Path | None = None,
) -> Comparison:
    """Compare evaluations of the same cases: paired tests, intervals of differences, ranks.

    An infinite distance and a case that could not be scored enter with the penalty they had in the
    evaluation. A region in neither mask counts as perfect where another model invented it, and is left
    out where all agree.

    Args:
        evaluations: two or more folders that `evaluate -o` wrote.
        common: compare the cases that all have, where their sets differ, instead of refusing.
        level: confidence of the intervals.
        seed: of bootstrap and sign flips.
        output: folder for `comparison.csv`, `comparison.json` and the table as Markdown and LaTeX.

    Raises:
        DatasetError: fewer than two, not such folders, other cases, other rules, no metric in common.
    """
    if len(evaluations) < 2:
        raise DatasetError("compare: give two or more folders of evaluations")
    read = [_read(path, name) for path, name in zip(evaluations, _names(evaluations), strict=True)]
    cases = _shared_cases(read, common)
    rules = {evaluated.rules for evaluated in read}
    if len(rules) > 1:
        raise DatasetError(
            f"compare: evaluated under other rules ({' | '.join(sorted(rules))}); do both alike"
        )
    questions = [
        (region, metric)
        for region in read[0].regions
        for metric in read[0].metrics
        if METRICS[metric.kind].better
        and all(region in other.regions and metric in other.metrics for other in read[1:])
    ]
    if not questions:
        raise DatasetError("compare: no region and metric in common; evaluate both with the same ones")
    differences, rank_rows = [], []
    for region, metric in questions:
        kept, values = _paired(read, cases, region, metric)
        subjects = [read[0].subjects[case] for case in kept]
        higher = METRICS[metric.kind].better == "higher"
        ranks = mean_ranks(values, higher) if kept else [math.nan] * len(read)
        rank_rows.append([region, metric.name, str(len(kept)), *(f"{rank:.2f}" for rank in ranks)])
        for (i, a), (j, b) in combinations(enumerate(read), 2):
            test = paired_test(values[i], values[j], subjects, level, seed)
            means = (_mean(values[i]), _mean(values[j]))
            differences.append(Difference(region, metric.name, a.name, b.name, means, test))
    corrected = _corrected(differences)
    headers = ["region", "metric", "cases", *(evaluated.name for evaluated in read)]
    ranks = Table("mean rank, 1 = best", headers, rank_rows)
    comparison = Comparison(_table(corrected, level, read[0].rules), ranks, tuple(corrected), output)
    if output is not None:
        _write(comparison, output)
    return comparison


def _read(folder: Path, name: str) -> _Evaluated:
    """Read `cases.csv` and `summary.json` of an evaluation."""
    document = read_json(folder / "summary.json")
    settings = document.get("settings") if isinstance(document, dict) else None
    if not isinstance(settings, dict) or "metrics" not in settings or "regions" not in document:
        raise DatasetError(f"{folder}: was not written by mambamed evaluate; give a folder of its -o")
    headers, rows = read_csv(folder / "cases.csv")
    metrics = tuple(parse_metric(text) for text in settings["metrics"])
    needed = {"case", "region", "subject", "penalty_mm", "presence", *(metric.name for metric in metrics)}
    if missing := sorted(needed - set(headers)):
        raise DatasetError(f"{folder / 'cases.csv'}: has no column {', '.join(missing)}; evaluate again")
    miss = float(settings.get("miss", 0.0))
    values: dict[tuple[str, str, str], float] = {}
    for number, row in enumerate(rows, start=2):
        for metric in metrics:
            lower = METRICS[metric.kind].better == "lower"
            try:
                value = float(row[metric.name] or "nan")
                penalty = float(row["penalty_mm"] or "nan") if lower else miss
            except ValueError as error:
                raise DatasetError(f"{folder / 'cases.csv'}:{number}: {error}; evaluate again") from error
            if math.isinf(value) or row["presence"] == "unscored":
                value = penalty
            values[row["case"], row["region"], metric.name] = value
    return _Evaluated(
        name,
        values,
        {row["case"]: row["subject"] for row in rows},
        tuple(document["regions"]),
        metrics,
        f"{settings.get('protocol')}: {settings.get('rules')}",
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name for each: the folder's, or its whole path where two are called the same."""
    short = [folder.resolve().name for folder in folders]
    return [str(f) if short.count(name) > 1 else name for f, name in zip(folders, short, strict=True)]


def _shared_cases(read: Sequence[_Evaluated], common: bool) -> list[str]:
    sets = [set(evaluated.subjects) for evaluated in read]
    shared = set.intersection(*sets)
    if not shared:
        raise DatasetError("compare: no case in common; evaluate the same cases")
    if not common and any(cases != shared for cases in sets):
        told = "; ".join(
            f"{evaluated.name} alone or with some: {', '.join(sorted(cases - shared)[:5])}"
            for evaluated, cases in zip(read, sets, strict=True)
            if cases - shared
        )
        raise DatasetError(
            f"compare: other cases ({told}); evaluate the same, or compare the {len(shared)} common ones "
            "with --common"
        )
    return sorted(shared)


def _paired(
    read: Sequence[_Evaluated], cases: Sequence[str], region: str, metric: Metric
) -> tuple[list[str], np.ndarray]:
    """The cases in which some model has a value, and `(models, cases)` values."""
    best = 1.0 if METRICS[metric.kind].better == "higher" else 0.0
    kept, columns = [], []
    for case in cases:
        column = [evaluated.values.get((case, region, metric.name), math.nan) for evaluated in read]
        if not all(math.isnan(value) for value in column):
            kept.append(case)
            columns.append([best if math.isnan(value) else value for value in column])
    return kept, np.array(columns, float).reshape(len(kept), len(read)).T


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    wilcoxon = holm([d.test.wilcoxon_p for d in differences])
    permutation = holm([d.test.permutation_p for d in differences])
    return [
        replace(d, wilcoxon_holm=w, permutation_holm=p)
        for d, w, p in zip(differences, wilcoxon, permutation, strict=True)
    ]


def _table(differences: Sequence[Difference], level: float, rules: str) -> Table:
    headers = [
        "region", "metric", "first", "second", "difference", f"{level:.0%} CI", "pairs",
        "p (Wilcoxon, Holm)", "p (permutation, Holm)",
    ]  # fmt: skip
    rows = []
    for d in differences:
        low, high = d.test.interval
        rows.append(
            [
                d.region,
                d.metric,
                f"{d.first} {shown(d.means[0])}",
                f"{d.second} {shown(d.means[1])}",
                f"{d.test.mean_difference:+.4g}",
                "-" if math.isnan(low) else f"{low:+.4g} to {high:+.4g}",
                str(d.test.pairs),
                _p(d.wilcoxon_holm),
                _p(d.permutation_holm),
            ]
        )
    notes = [
        "difference = second minus first; paired by subject; p-values corrected for all rows (Holm)",
        rules,
    ]
    return Table("Comparison", headers, rows, notes)


def _write(comparison: Comparison, output: Path) -> None:
    headers = [
        "region", "metric", "first", "second", "mean_first", "mean_second", "difference", "ci_low", "ci_high",
        "pairs", "wilcoxon_p", "permutation_p", "wilcoxon_holm", "permutation_holm",
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [
            d.region, d.metric, d.first, d.second, *d.means, d.test.mean_difference, *d.test.interval,
            d.test.pairs, d.test.wilcoxon_p, d.test.permutation_p, d.wilcoxon_holm, d.permutation_holm,
        ]
        for d in comparison.differences
    ]  # fmt: skip
    write_csv(output / "comparison.csv", headers, rows)
    write_text(output / "comparison.md", to_markdown(comparison.table))
    write_text(output / "comparison.tex", to_latex(comparison.table))
    write_csv(output / "ranks.csv", comparison.ranks.headers, comparison.ranks.rows)
    document = {"format": FORMAT, "differences": [asdict(d) for d in comparison.differences]}
    write_json(output / "comparison.json", document)


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan
