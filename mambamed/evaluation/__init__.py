"""Predictions and references -> tables that can be trusted.

`pairing` finds what belongs together, `scoring` scores one case, `summary` takes the means.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mambamed.errors import CaseError, DatasetError
from mambamed.evaluation.pairing import Pairing, pair_up, restricted
from mambamed.evaluation.scoring import CaseScores, score_files
from mambamed.evaluation.summary import (
    MetricSummary,
    average_over_regions,
    case_rows,
    nnunet_document,
    summarize,
    summary_rows,
)
from mambamed.io.documents import write_json
from mambamed.io.tables import write_csv
from mambamed.metrics import METRICS, Metric, parse_metrics
from mambamed.metrics.kernels import loops
from mambamed.metrics.rules import Rules, rules_for
from mambamed.progress import Progress, Silence
from mambamed.report.tables import Table, shown

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        table: the summary for people: a row a region, and their average.
        summaries: every region in every metric.
        cases: every case.
        regions: names in the order of the tables -> labels.
        settings: the conventions behind the numbers, by name.
        output: folder of `cases.csv`, `summary.csv`, `summary.json`; None where nothing was written.
        faults: what could not be scored or paired, one line each.
    """

    table: Table
    summaries: tuple[MetricSummary, ...]
    cases: tuple[CaseScores, ...]
    regions: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any]
    output: Path | None = None
    faults: tuple[CaseError, ...] = field(default=())


def evaluate(
    predictions: Path,
    references: Path,
    *,
    labels: Mapping[str, int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    metrics: Sequence[str] | None = None,
    hd95: str | None = None,
    empty: str | None = None,
    protocol: str | None = None,
    cases: Collection[str] | Literal["predicted"] | None = None,
    resample: bool = False,
    output: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score predicted label maps against their references.

    Args:
        predictions: folder of label maps named by case, or one label map.
        references: the same; or a folder of BraTS cases; or a Decathlon or nnU-Net folder.
        labels, regions: what is scored: name -> label, name -> labels it unites; None: as a `dataset.json`
            beside the files says, as BraTS defines it for its cases, or else each label that occurs.
        metrics: names as `parse_metric` reads them; None: the protocol's.
        hd95: convention of a bare `hd95`.
        empty: "exclude" or "brats": what a region counts for that is in neither mask.
        protocol: the conventions of a paper or challenge, all at once; goes before `hd95` and `empty`.
        cases: the references that count, by id: those of a validation fold, say; "predicted": those that
            have a prediction, so that a missing one goes unnoticed; None: all.
        resample: bring a prediction to its reference's grid where they differ, instead of a fault.
        output: folder for `cases.csv`, `summary.csv` and `summary.json` (nnU-Net's schema and more).
        workers: threads; 0 = one a core.
        progress: hears of each case.

    Returns:
        Every number; a case that could not be scored is among the `faults`, and in the penalized means.

    Raises:
        DatasetError: a folder that holds nothing to compare, or an unknown metric, rule or protocol.
    """
    progress = progress or Silence()
    try:
        rules = rules_for(protocol, empty, hd95)
        asked = parse_metrics(metrics or rules.metrics, rules.hd95)
    except ValueError as error:
        raise DatasetError(f"evaluate: {error}") from error
    pairing = restricted(pair_up(predictions, references, labels, regions), cases)
    scores = _score_all(pairing, asked, rules, resample, workers, progress)
    scored = pairing.answers.regions or _occurring_regions(scores)
    summaries = summarize(scores, list(scored), asked, rules)
    settings = _settings(pairing, asked, rules)
    evaluation = Evaluation(
        table=_table(summaries, asked, rules, settings),
        summaries=tuple(summaries),
        cases=tuple(scores),
        regions={name: tuple(members) for name, members in scored.items()},
        settings=settings,
        output=output,
        faults=_faults(scores, pairing),
    )
    if output is not None:
        _write(evaluation, asked)
    return evaluation


def _score_all(
    pairing: Pairing,
    metrics: Sequence[Metric],
    rules: Rules,
    resample: bool,
    workers: int,
    progress: Progress,
) -> list[CaseScores]:
    """Every case, in the order of their ids. Threads: reading and the compiled loops hold no lock."""
    answers = pairing.answers
    loops()  # once, before the threads ask for it
    progress.start("evaluating", len(pairing.pairs), "cases")
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        futures = [
            pool.submit(
                score_files,
                case,
                reference,
                prediction,
                answers.regions,
                answers.labels,
                metrics,
                rules,
                resample,
            )
            for case, (reference, prediction) in pairing.pairs.items()
        ]
        try:
            cases = []
            for future in futures:
                cases.append(future.result())
                progress.advance(case=cases[-1].case)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return cases


def _occurring_regions(cases: Sequence[CaseScores]) -> dict[str, tuple[int, ...]]:
    labels = sorted({int(name) for case in cases for name in case.regions})
    return {str(label): (label,) for label in labels}


def _faults(cases: Sequence[CaseScores], pairing: Pairing) -> tuple[CaseError, ...]:
    lines = [case.fault for case in cases if case.fault is not None]
    lines += [f"{path}: no reference of this name; remove it or add its reference" for path in pairing.extra]
    return tuple(CaseError(line) for line in lines)


def _settings(pairing: Pairing, metrics: Sequence[Metric], rules: Rules) -> dict[str, Any]:
    import numpy
    import scipy

    from mambamed import __version__

    return {
        "protocol": rules.name,
        "metrics": [metric.name for metric in metrics],
        "rules": rules.describe(),
        "source": rules.source,
        "labels_from": pairing.answers.source,
        "mambamed": __version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "computed_with": loops().name,
    }


def _table(
    summaries: Sequence[MetricSummary], metrics: Sequence[Metric], rules: Rules, settings: Mapping[str, Any]
) -> Table:
    """The summary for people: mean ± SD of each region and metric, and over how many cases."""
    headers = ["region"]
    for metric in metrics:
        unit = METRICS[metric.kind].unit
        headers.append(f"{metric.title} [{unit}]" if unit else metric.title)
        if any(s.infinite or s.unscored for s in summaries if s.metric == metric.name):
            headers.append("with misses")
    rows = []
    for region in dict.fromkeys(s.region for s in summaries):
        row = [region]
        for metric, column in _columns(summaries, metrics):
            (found,) = (s for s in summaries if (s.region, s.metric) == (region, metric.name))
            row.append(_cell(found) if column == "mean" else shown(found.mean_penalized))
        rows.append(row)
    if len(rows) > 1:
        average = ["average"]
        for metric, column in _columns(summaries, metrics):
            average.append(shown(average_over_regions(summaries, metric.name, column == "misses")))
        rows.append(average)
    cases = summaries[0].cases if summaries else 0
    notes = [f"protocol {rules.name}; {', '.join(m.name for m in metrics)}", rules.describe()]
    notes += [f"labels: {settings['labels_from']}"]
    return Table(f"{cases} cases, mean ± SD (n where not all are defined)", headers, rows, notes)


def _columns(summaries: Sequence[MetricSummary], metrics: Sequence[Metric]) -> list[tuple[Metric, str]]:
    columns = []
    for metric in metrics:
        columns.append((metric, "mean"))
        if any(s.infinite or s.unscored for s in summaries if s.metric == metric.name):
            columns.append((metric, "misses"))
    return columns


def _cell(summary: MetricSummary) -> str:
    text = f"{shown(summary.mean)} ± {shown(summary.sd)}"
    return text if summary.defined == summary.cases else f"{text} (n={summary.defined})"


def _write(evaluation: Evaluation, metrics: Sequence[Metric]) -> None:
    from dataclasses import asdict

    output = evaluation.output
    assert output is not None
    names = list(evaluation.regions)
    write_csv(output / "cases.csv", *case_rows(evaluation.cases, names, metrics))
    write_csv(output / "summary.csv", *summary_rows(evaluation.summaries))
    document = nnunet_document(evaluation.cases, evaluation.regions, metrics) | {
        "format": FORMAT,
        "regions": {name: list(members) for name, members in evaluation.regions.items()},
        "settings": dict(evaluation.settings),
        "summaries": [asdict(summary) for summary in evaluation.summaries],
        "faults": [str(fault) for fault in evaluation.faults],
    }
    write_json(output / "summary.json", document)
