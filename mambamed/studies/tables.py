"""The tables of a study: results with the numbers of the papers, single structures, tests, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mambamed.documents.study import StudyRun, StudyScore
from mambamed.evaluation.read_back import ALL
from mambamed.metrics import METRICS, parse_metric
from mambamed.metrics.classification import BINARY_METRICS, MULTICLASS_METRICS
from mambamed.recipe import Recipe
from mambamed.report.tables import Table
from mambamed.run.training_cost import duration
from mambamed.studies.papers import FRACTIONS
from mambamed.studies.results import AUC, AVERAGE, DatasetResults

_WHOLE = (AVERAGE, ALL)
_CLASS_METRICS = {**MULTICLASS_METRICS, **BINARY_METRICS}


def result_table(
    results: DatasetResults, recipes: Mapping[str, Recipe], runs: Sequence[StudyRun], level: float
) -> Table:
    """One row per recipe and, below it, the numbers of the paper: means over all structures, rank, cost.

    Args:
        recipes: name -> recipe.
        runs: what each run took.
    """
    metrics = [each for each in _metrics(results) if _found(results, None, results.whole, each)]
    headers = ["recipe"]
    for metric in metrics:
        headers += [title_of(metric), f"{level:.0%} CI", "rank"]
    headers += ["million weights", "steps", "hours", "GiB"]
    rows = []
    for name in _names(results):
        row, paper = [name], [f"  paper: {recipes[name].paper.get('source', 'its own numbers')}"]
        for metric in metrics:
            score = _found(results, name, results.whole, metric)
            assert score is not None
            row += [
                _spread(score.mean, score.sd, metric),
                _interval(score.interval, metric),
                _rank(score.rank),
            ]
            paper += ["" if score.paper is None else _shown(score.paper, metric), "", ""]
        rows.append([*row, *_cost(results.dataset, name, runs)])
        if any(paper[1:]):
            rows.append([*paper, "", "", "", ""])
    units = max((score.units for score in results.scores), default=0)
    seeds = max((len(score.seeds) for score in results.scores), default=0)
    devices = ", ".join(dict.fromkeys(run.device for run in runs if run.device)) or "unknown device"
    notes = [
        f"{units} {results.units}; mean ± SD over {seeds} seed{'s' * (seeds != 1)} of the means over the "
        f"{results.units}; fractions in per cent, distances in mm",
        "CI: bootstrap over subjects of the mean over the seeds; rank: 1 = best, mean over all units",
        f"hours: {'CPU' if devices == 'cpu' else 'GPU'}-hours of one run with all its folds, mean over the "
        f"seeds ({devices}); >: a session that was killed is not included; GiB: the largest of all runs",
        results.rules,
    ]
    if results.whole == AVERAGE:
        notes.insert(1, "average over the structures of each case, misses counted with their penalty")
    return Table(f"Results on {results.dataset}", headers, rows, notes)


def structure_tables(results: DatasetResults, recipes: Mapping[str, Recipe]) -> list[Table]:
    """One table per metric with a column per structure, mean ± SD over the seeds; none for one structure."""
    tables = []
    for metric in _metrics(results):
        regions = list(dict.fromkeys(s.region for s in results.scores if s.metric == metric))
        regions = [region for region in regions if region not in _WHOLE] + [r for r in _WHOLE if r in regions]
        if len(regions) < 3:  # one structure and its average
            continue
        rows = []
        for name in _names(results):
            found = [_found(results, name, region, metric) for region in regions]
            rows.append([name, *("-" if s is None else _spread(s.mean, s.sd, metric) for s in found)])
            papers = ["" if s is None or s.paper is None else _shown(s.paper, metric) for s in found]
            if any(papers):
                rows.append([f"  paper: {recipes[name].paper.get('source', 'its own numbers')}", *papers])
        notes = ["mean ± SD over the seeds; fractions in per cent, distances in mm"]
        tables.append(Table(f"{title_of(metric)} on {results.dataset}", ["recipe", *regions], rows, notes))
    return tables


def test_table(results: DatasetResults, level: float, whole: bool = True) -> Table:
    """The paired tests of the averages, or those of single structures."""
    tests = [test for test in results.differences if (test.region in _WHOLE) == whole]
    by_delong = any(test.metric == AUC for test in tests)
    headers = ["recipes", "structure", "metric", "difference", f"{level:.0%} CI", "by seed", "subjects"]
    headers += ["p (permutation, Holm)", "p (Wilcoxon, Holm)", *(["p (DeLong, Holm)"] if by_delong else [])]
    rows = []
    for test in tests:
        ps = [test.permutation_holm, test.wilcoxon_holm, *([test.delong_holm] if by_delong else [])]
        change = f"{_scaled(test.difference, test.metric):+.2f}"
        interval = _interval(test.interval, test.metric, signed=True)
        seeds = ", ".join(f"{_scaled(each, test.metric):+.2f}" for each in test.seeds.values()) or "-"
        pair = f"{test.second} - {test.first}"
        rows.append(
            [
                pair,
                test.region,
                title_of(test.metric),
                change,
                interval,
                seeds,
                str(test.subjects),
                *map(_p, ps),
            ]
        )
    family = "the averages" if whole else "single structures"
    notes = [
        "difference of the means over the seeds, in per cent or mm; paired by subject",
        "the tests and intervals are over subjects, for the networks that were trained: they do not contain "
        "the spread between seeds, which the column 'by seed' shows",
        f"p-values corrected by Holm's method for the {len(rows)} tests of {family} on this dataset",
    ]
    return Table(f"Tests on {results.dataset}", headers, rows, notes)


def title_of(metric: str) -> str:
    """The heading of a metric.

    >>> title_of("nsd@1:surface-area"), title_of("error_mm"), title_of("sdr_2mm"), title_of("auc")
    ('NSD at 1 mm', 'MRE', 'SDR 2 mm', 'AUC')
    """
    if metric in _CLASS_METRICS:
        return _CLASS_METRICS[metric].paper or _CLASS_METRICS[metric].title
    if metric == "error_mm":
        return "MRE"
    if metric.startswith("sdr_"):
        return f"SDR {metric.removeprefix('sdr_').removesuffix('mm')} mm"
    return parse_metric(metric).title


def is_fraction(metric: str) -> bool:
    """Whether a metric is shown in per cent."""
    if metric == "error_mm":
        return False
    if metric in _CLASS_METRICS or metric.startswith("sdr_"):
        return True
    return METRICS[parse_metric(metric).kind].unit == ""


def _metrics(results: DatasetResults) -> list[str]:
    return list(dict.fromkeys(score.metric for score in results.scores))


def _names(results: DatasetResults) -> list[str]:
    return list(dict.fromkeys(score.recipe for score in results.scores))


def _found(results: DatasetResults, name: str | None, region: str, metric: str) -> StudyScore | None:
    return next(
        (
            score
            for score in results.scores
            if name in (None, score.recipe) and (score.region, score.metric) == (region, metric)
        ),
        None,
    )


def _cost(dataset: str, name: str, runs: Sequence[StudyRun]) -> list[str]:
    own = [run for run in runs if (run.dataset, run.recipe) == (dataset, name)]
    hours = [run.hours for run in own if run.hours is not None]
    peaks = [run.peak_gib for run in own if run.peak_gib is not None]
    steps = [run.steps for run in own if run.steps is not None]
    weights = next((run.parameters for run in own if run.parameters is not None), None)
    least = ">" if any(not run.complete for run in own if run.hours is not None) else ""
    return [
        "-" if weights is None else f"{weights / 1e6:.2f}",
        f"{sum(steps) / len(steps):.0f}" if steps else "-",
        f"{least}{duration(sum(hours) / len(hours))}" if hours else "-",
        f"{max(peaks):.1f}" if peaks else "-",
    ]


def _scaled(value: float, metric: str) -> float:
    return value * FRACTIONS if is_fraction(metric) else value


def _shown(value: float, metric: str) -> str:
    return "-" if math.isnan(value) else f"{_scaled(value, metric):.2f}"


def _spread(mean: float, sd: float, metric: str) -> str:
    text = _shown(mean, metric)
    return text if math.isnan(sd) else f"{text} ± {_scaled(sd, metric):.2f}"


def _interval(interval: tuple[float, float], metric: str, signed: bool = False) -> str:
    if math.isnan(interval[0]):
        return "-"
    low, high = (_scaled(each, metric) for each in interval)
    return f"{low:+.2f} to {high:+.2f}" if signed else f"{low:.2f} to {high:.2f}"


def _rank(rank: float) -> str:
    return "-" if math.isnan(rank) else f"{rank:.2f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
