"""Predictions and references -> tables that can be trusted.

`pairing` finds what belongs together, `scoring` scores one case, `summary` takes the means, `tables` and
`output` show them, `compare` tells whether two models differ.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mambamed.errors import CaseError, DatasetError
from mambamed.evaluation.output import find_pictures, write_report, write_tables
from mambamed.evaluation.pairing import Pairing, pair_up, restricted, subject_of
from mambamed.evaluation.result import Evaluation
from mambamed.evaluation.scoring import CaseScores, score_files
from mambamed.evaluation.summary import summarize
from mambamed.evaluation.tables import brats_table, detail_table, summary_table
from mambamed.metrics import Metric, parse_metrics
from mambamed.metrics.kernels import loops
from mambamed.metrics.rules import Rules, rules_for
from mambamed.progress import Progress, Silence
from mambamed.report.tables import write_table

__all__ = ["Evaluation", "evaluate"]


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
    penalty_mm: float | None = None,
    level: float = 0.95,
    cases: Collection[str] | Literal["predicted"] | None = None,
    subjects: Mapping[str, str] | None = None,
    resample: bool = False,
    output: Path | None = None,
    report: bool = False,
    worst: int = 10,
    images: Path | None = None,
    table: Literal["brats"] | None = None,
    paper: Mapping[str, float | str] | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score predicted label maps against their references.

    Args:
        predictions: folder of label maps named by case, or one label map.
        references: the same; or a folder of BraTS cases; or a Decathlon, nnU-Net or prepared folder.
        labels, regions: what is scored: name -> label, name -> labels it unites; None: as a `dataset.json`
            beside the files says, as BraTS defines it for its cases, or else each label that occurs.
        metrics: names as `parse_metric` reads them; None: the protocol's.
        hd95: convention of a bare `hd95`.
        empty: "exclude" or "brats": what a region counts for that is in neither mask.
        protocol: the conventions of a paper or challenge, all at once; goes before `hd95` and `empty`.
        penalty_mm: stands for an infinite distance in the penalized means; None: the protocol's.
        level: of the bootstrap confidence intervals.
        cases: the references that count, by id: those of a validation fold, say; "predicted": those that
            have a prediction; None: all.
        subjects: case -> person; None: each case its own, but for BraTS' second visits.
        resample: bring a prediction to its reference's grid where they differ, instead of a fault.
        output: folder for `cases.csv`, `summary.csv` and `summary.json` (nnU-Net's schema and more).
        report: also write `report.html` there, with pictures of the `worst` cases.
        images: folder of the images behind those pictures; None: looked for beside the references.
        table: also make the table as papers print it, and write it to `output` as CSV, Markdown and LaTeX.
        paper: a recipe's `paper` section, a row of that table.
        workers: threads; 0 = one a core.
        progress: hears of each case.

    Returns:
        Every number; a case that could not be scored is among the `faults`, and in the penalized means.

    Raises:
        DatasetError: a folder that holds nothing to compare, or an unknown metric, rule or protocol.
    """
    progress = progress or Silence()
    if workers < 0:
        raise DatasetError(f"--workers {workers}: give a number of threads, or 0 for one a core")
    try:
        rules = rules_for(protocol, empty, hd95, penalty_mm)
        asked = parse_metrics(metrics or rules.metrics, rules.hd95)
    except ValueError as error:
        raise DatasetError(f"evaluate: {error}") from error
    whole = pair_up(predictions, references, labels, regions)
    pairing = restricted(whole, cases)
    scores = _score_all(pairing, asked, rules, resample, subjects, workers, progress)
    scored = pairing.answers.regions or _occurring_regions(scores)
    scored = {name: tuple(members) for name, members in scored.items()}
    summaries = summarize(scores, list(scored), asked, rules, level)
    notes = [f"protocol {rules.name}: {', '.join(metric.name for metric in asked)}", rules.describe()]
    notes.append(f"labels: {pairing.answers.source}")
    if left := len(whole.pairs) - len(pairing.pairs):
        notes.append(f"{left} of {len(whole.pairs)} references left out, as asked")
    evaluation = Evaluation(
        table=summary_table(summaries, asked, notes, level),
        summaries=tuple(summaries),
        cases=tuple(scores),
        regions=scored,
        metrics=asked,
        rules=rules,
        settings=_settings(pairing, asked, rules, level),
        output=output,
        paper_table=brats_table(summaries, predictions.resolve().name, paper) if table == "brats" else None,
        faults=_faults(scores, pairing),
    )
    if output is None:
        return evaluation
    written: list[Path] = []
    if evaluation.paper_table is not None:
        written += write_table(output / "table_brats", evaluation.paper_table)
    if report:
        title = f"Evaluation of {predictions.resolve().name}"
        lead = f"Predictions {predictions} against references {references}."
        pictures = find_pictures(evaluation, worst, pairing.answers.names, images, references)
        written.append(write_report(evaluation, title, lead, detail_table(summaries, notes, level), pictures))
    written += write_tables(evaluation)
    return replace(evaluation, written=tuple(written))


def _score_all(
    pairing: Pairing,
    metrics: Sequence[Metric],
    rules: Rules,
    resample: bool,
    subjects: Mapping[str, str] | None,
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
                subject_of(case, subjects),
                answers.ignored,
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


def _settings(pairing: Pairing, metrics: Sequence[Metric], rules: Rules, level: float) -> dict[str, Any]:
    import numpy
    import scipy

    from mambamed import __version__

    return {
        "protocol": rules.name,
        "metrics": tuple(metric.name for metric in metrics),
        "rules": rules.describe(),
        "source": rules.source,
        "miss": rules.fractions[1],
        "confidence": level,
        "labels_from": pairing.answers.source,
        "mambamed": __version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "computed_with": loops().name,
    }
