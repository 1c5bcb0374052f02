"""The summary for people, and the tables of papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mambamed.documents.evaluation import RegionRow
from mambamed.evaluation.summary import average_over_regions
from mambamed.metrics import METRICS, Metric
from mambamed.report.tables import Table, paper_table, shown, shown_interval

# "WT", "WT dice", "Average HD95" in the `paper:` section of a recipe; a bare region is its Dice.
_PAPER_METRICS = {"dice": "dice", "dsc": "dice", "hd95": "hd95"}


def summary_table(
    summaries: Sequence[RegionRow], metrics: Sequence[Metric], notes: Sequence[str], level: float
) -> Table:
    """Mean ± SD of each region and metric, with confidence interval and number of cases.

    If values are infinite or cases could not be scored, a further column has the penalized mean.
    """
    columns = _columns(summaries, metrics)
    headers = ["region"]
    for metric, column in columns:
        unit = METRICS[metric.kind].unit
        title = f"{metric.title} [{unit}]" if unit else metric.title
        headers.append({"mean": title, "interval": f"{level:.0%} CI", "misses": "with misses"}[column])
    rows = []
    for region in dict.fromkeys(s.region for s in summaries):
        found = {s.metric: s for s in summaries if s.region == region}
        rows.append([region, *(_cell(found[metric.name], column) for metric, column in columns)])
    if len(rows) > 1:
        average = ["average"]
        for metric, column in columns:
            mean = average_over_regions(summaries, metric.name, penalized=column == "misses")
            average.append("" if column == "interval" else shown(mean))
        rows.append(average)
    cases = summaries[0].cases if summaries else 0
    title = f"{cases} case{'s' * (cases != 1)}, mean ± SD (n where not all are defined)"
    return Table(title, headers, rows, notes)


def detail_table(summaries: Sequence[RegionRow], notes: Sequence[str], level: float) -> Table:
    """The same for the report page: one row per region and metric, with median and quartiles."""
    interval = f"{level:.0%} CI"
    headers = ["region", "metric", "mean ± SD", interval, "median (quartiles)", "with misses", "defined"]
    rows = []
    for s in summaries:
        quartiles = f"{shown(s.median)} ({shown(s.low)} to {shown(s.high)})"
        misses = shown(s.mean_penalized) if s.infinite or s.unscored else ""
        mean = f"{shown(s.mean)} ± {shown(s.sd)}"
        defined = f"{s.defined} of {s.cases}"
        rows.append([s.region, s.metric, mean, _cell(s, "interval"), quartiles, misses, defined])
    return Table("with misses: the mean with infinite distances and unscored cases", headers, rows, notes)


def brats_table(
    summaries: Sequence[RegionRow], name: str, paper: Mapping[str, float | str] | None = None
) -> Table:
    """Dice and HD95 of WT, TC and ET (or other regions) and their average, in the layout of papers.

    Args:
        name: of the method, for its row.
        paper: a recipe's `paper` section, as a row: region -> Dice, "region HD95" -> mm, "source" -> text.
    """
    regions = list(dict.fromkeys(s.region for s in summaries))
    regions.sort(key=lambda r: ("WT", "TC", "ET").index(r) if r in {"WT", "TC", "ET"} else 3)
    names = list(dict.fromkeys(s.metric for s in summaries))
    distance = next((n for n in names if n.startswith("hd95")), None)
    blocks = {"dice": "Dice %"} if "dice" in names else {}
    if distance:
        blocks["hd95"] = "HD95 mm"
    ours = {}
    for s in summaries:
        if s.metric == "dice":
            ours["dice", s.region] = 100 * s.mean_penalized
        elif s.metric == distance:
            ours["hd95", s.region] = s.mean_penalized
    methods: dict[str, Mapping[tuple[str, str], float]] = {name: ours}
    if paper:
        methods[f"paper ({paper.get('source', 'its own numbers')})"] = _paper_means(paper)
    cases = max((s.cases for s in summaries), default=0)
    notes = [f"{cases} cases; misses count with their penalty; HD95 is {distance or 'not measured'}"]
    return paper_table("Segmentation of regions", regions, blocks, methods, notes)


def _paper_means(paper: Mapping[str, float | str]) -> dict[tuple[str, str], float]:
    means: dict[tuple[str, str], float] = {}
    for key, value in paper.items():
        if not isinstance(value, (int, float)):
            continue
        words = key.replace("_", " ").split()
        metric = _PAPER_METRICS.get(words[-1].lower()) if len(words) > 1 else None
        region = " ".join(words[:-1]) if metric else key
        region = "Average" if region.lower() in {"average", "mean", "avg"} else region
        means[metric or "dice", region] = float(value)
    return means


def _columns(summaries: Sequence[RegionRow], metrics: Sequence[Metric]) -> list[tuple[Metric, str]]:
    columns = []
    for metric in metrics:
        found = [s for s in summaries if s.metric == metric.name]
        columns.append((metric, "mean"))
        if any(not math.isnan(s.interval[0]) for s in found):
            columns.append((metric, "interval"))
        if any(s.infinite or s.unscored for s in found):
            columns.append((metric, "misses"))
    return columns


def _cell(summary: RegionRow, column: str) -> str:
    if column == "misses":
        return shown(summary.mean_penalized)
    if column == "interval":
        return shown_interval(summary.interval)
    text = f"{shown(summary.mean)} ± {shown(summary.sd)}"
    return text if summary.defined == summary.cases else f"{text} (n={summary.defined})"
