"""Summarize the scores of cases: means, intervals, and the rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mambamed.documents.evaluation import NnunetCase, RegionRow
from mambamed.evaluation.scoring import CaseScores
from mambamed.metrics import METRICS, Metric
from mambamed.metrics.rules import Rules
from mambamed.metrics.statistics import bootstrap_interval


def summarize(
    cases: Sequence[CaseScores],
    regions: Sequence[str],
    metrics: Sequence[Metric],
    rules: Rules,
    level: float = 0.95,
) -> list[RegionRow]:
    """Summarize every region in every metric, region by region."""
    return [_summarize(cases, region, metric, rules, level) for region in regions for metric in metrics]


def _summarize(
    cases: Sequence[CaseScores], region: str, metric: Metric, rules: Rules, level: float
) -> RegionRow:
    better = METRICS[metric.kind].better
    finite, subjects, penalized, empty, infinite, unscored = [], [], [], 0, 0, 0
    for case in cases:
        penalty = penalty_of(case, better, rules)
        scores = case.regions.get(region)
        if scores is None:
            unscored += case.fault is not None
            if case.fault is not None:
                penalized.append(penalty)
            continue
        value = scores.values[metric.name]
        if math.isnan(value):
            empty += 1
        elif math.isinf(value):
            infinite += 1
            penalized.append(penalty)
        else:
            finite.append(value)
            subjects.append(case.subject)
    penalized = [value for value in penalized if not math.isnan(value)]
    values, mean = np.array(finite), _mean(finite)
    low, median, high = np.percentile(values, (25, 50, 75)) if finite else (math.nan,) * 3
    return RegionRow(
        region=region,
        metric=metric.name,
        cases=len(cases),
        defined=len(finite),
        empty=empty,
        infinite=infinite,
        unscored=unscored,
        mean=mean,
        sd=float(values.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=float(median),
        low=float(low),
        high=float(high),
        minimum=min(finite, default=math.nan),
        maximum=max(finite, default=math.nan),
        mean_penalized=_mean([*finite, *penalized]) if better else mean,
        interval=bootstrap_interval(values, subjects, level),
    )


def penalty_of(case: CaseScores, better: str, rules: Rules) -> float:
    """The value of a miss in the penalized mean; NaN for metrics without a better direction."""
    if better == "higher":
        return rules.fractions[1]
    if better == "lower":
        return rules.penalty_mm if rules.penalty_mm is not None else case.diagonal_mm
    return math.nan


def average_over_regions(summaries: Sequence[RegionRow], metric: str, penalized: bool = False) -> float:
    """Mean of the regions' means; NaN if any of them is undefined."""
    values = [s.mean_penalized if penalized else s.mean for s in summaries if s.metric == metric]
    return float(np.mean(values)) if values else math.nan


def case_rows(
    cases: Sequence[CaseScores], regions: Sequence[str], metrics: Sequence[Metric], rules: Rules
) -> tuple[list[str], list[list[Any]]]:
    """`cases.csv`: one row per case and region."""
    names = [metric.name for metric in metrics]
    headers = ["case", "region", *names, "presence", "tp", "fp", "fn", "subject", "penalty_mm", "fault"]
    rows: list[list[Any]] = []
    for case in cases:
        penalty = penalty_of(case, "lower", rules)
        for region in regions:
            scores = case.regions.get(region)
            if scores is not None:
                counts = scores.counts
                values: list[Any] = [scores.values[name] for name in names]
                values += [scores.presence, counts.tp, counts.fp, counts.fn]
            elif case.fault is not None:
                values = [math.nan] * len(names) + ["unscored", None, None, None]
            else:
                continue  # labels were not given, and this one occurs only in other cases
            rows.append([case.case, region, *values, case.subject, penalty, case.fault or ""])
    return headers, rows


def summary_rows(summaries: Sequence[RegionRow]) -> tuple[list[str], list[list[Any]]]:
    """`summary.csv`: one row per region and metric."""
    headers = [
        "region", "metric", "mean", "sd", "ci_low", "ci_high", "median", "quartile_low", "quartile_high",
        "minimum", "maximum", "mean_penalized", "cases", "defined", "empty", "infinite", "unscored",
    ]  # fmt: skip
    rows = [
        [
            s.region, s.metric, s.mean, s.sd, *s.interval, s.median, s.low, s.high, s.minimum, s.maximum,
            s.mean_penalized, s.cases, s.defined, s.empty, s.infinite, s.unscored,
        ]
        for s in summaries
    ]  # fmt: skip
    return headers, rows


def nnunet_keys(
    cases: Sequence[CaseScores], regions: Mapping[str, Sequence[int]], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """nnU-Net's keys of `summary.json`: `metric_per_case`, `mean`, `foreground_mean`.

    Labels are keyed by number and regions by their tuple; Dice and IoU are NaN if a region is in neither
    mask, and means skip NaN. Our metrics have their own names. Cases that could not be scored are not listed.
    """
    keys = {n: str(m[0]) if len(m) == 1 else str(tuple(m)) for n, m in regions.items()}
    per_case = tuple(
        NnunetCase(
            metrics={keys[n]: _nnunet_metrics(case, n, metrics) for n in regions if n in case.regions},
            prediction_file=str(case.prediction),
            reference_file=str(case.reference),
        )
        for case in cases
        if case.fault is None
    )
    mean = {}
    for key in keys.values():
        rows = [entry.metrics[key] for entry in per_case if key in entry.metrics]
        mean[key] = {name: _mean([row[name] for row in rows]) for name in (rows[0] if rows else {})}
    names = next(iter(mean.values()), {})
    foreground = {name: _mean([row[name] for row in mean.values()]) for name in names}
    return {"foreground_mean": foreground, "mean": mean, "metric_per_case": per_case}


def _nnunet_metrics(case: CaseScores, region: str, metrics: Sequence[Metric]) -> dict[str, float]:
    scores = case.regions[region]
    counts = scores.counts
    union = counts.tp + counts.fp + counts.fn
    theirs = {
        "Dice": 2 * counts.tp / (union + counts.tp) if union else math.nan,
        "FN": counts.fn,
        "FP": counts.fp,
        "IoU": counts.tp / union if union else math.nan,
        "TN": counts.tn,
        "TP": counts.tp,
        "n_pred": counts.prediction,
        "n_ref": counts.reference,
    }
    return theirs | {metric.name: scores.values[metric.name] for metric in metrics}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
