"""Score segmentation masks against reference masks."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mambamed.cases import Case
from mambamed.converters import prepared
from mambamed.converters.accounting import other_files
from mambamed.documents.evaluation import SegmentationSummary
from mambamed.documents.prepared import PreparedIndex
from mambamed.errors import CaseError, DatasetError, RecipeError
from mambamed.evaluation.backgrounds import Backgrounds
from mambamed.evaluation.options import EvaluateOptions
from mambamed.evaluation.output import MaskEvaluation, find_pictures, write_report, write_tables
from mambamed.evaluation.pairing import (
    Pairing,
    pair_up,
    read_regions,
    repeated_people,
    restricted,
    subject_of,
)
from mambamed.evaluation.read_back import Evaluated, Question, read_case_rows, read_number
from mambamed.evaluation.scorer import Scorer
from mambamed.evaluation.scoring import CaseScores, Together, score_files
from mambamed.evaluation.summary import summarize
from mambamed.evaluation.tables import brats_table, detail_table, summary_table
from mambamed.metrics import METRICS, Metric, parse_metric, parse_metrics
from mambamed.metrics.kernels import loops
from mambamed.metrics.rules import Rules, rules_for
from mambamed.preparation.pool import Workers, over_cases
from mambamed.progress import Progress, Silence
from mambamed.schema_errors import some_of


def evaluate(
    predictions: Path,
    references: Path,
    *,
    labels: Mapping[str, int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    regions_alone: bool = False,
    metrics: Sequence[str] | None = None,
    hd95: str | None = None,
    empty: str | None = None,
    protocol: str | None = None,
    penalty_mm: float | None = None,
    level: float = 0.95,
    cases: Collection[str] | None = None,
    only_predicted: bool = False,
    subjects: Mapping[str, str] | None = None,
    resample: bool = False,
    output: Path | None = None,
    report: bool = False,
    worst: int = 10,
    images: Path | None = None,
    table: Literal["brats"] | None = None,
    paper: Mapping[str, float | str] | None = None,
    workers: int = 0,
    together: Together | None = None,
    elsewhere: Workers | None = None,
    progress: Progress | None = None,
) -> MaskEvaluation:
    """Score predicted label maps against their references.

    A case that could not be scored is a fault, and is counted in the penalized means.

    Args:
        predictions, references: see `pair_up`.
        labels, regions: structures to score; see `pair_up`.
        regions_alone: ignore labels that are in no region, instead of reporting them as faults.
        metrics: names, see `parse_metric` (default: from the protocol).
        hd95: definition of a bare `hd95`.
        empty: "exclude" or "brats": how a region that is in neither mask is scored.
        protocol: all rules of a paper or challenge; overrides `hd95` and `empty`.
        penalty_mm: replaces an infinite distance in the penalized means (default: from the protocol).
        level: confidence level of the bootstrap intervals.
        cases: ids of the references to score (default: all).
        only_predicted: score only references with a prediction.
        subjects: case -> subject (default: those of a prepared dataset, or of ids of BraTS or BIDS, else each
            case its own).
        resample: resample predictions whose grid differs from the reference, instead of reporting a fault.
        output: folder for `cases.csv`, `summary.csv` and `summary.json` (nnU-Net's schema, extended).
        report: also write `report.html`, with pictures of the `worst` cases.
        images: folder of the images in these pictures (default: searched next to the references).
        table: also make a table like those of papers, as CSV, Markdown and LaTeX.
        paper: a recipe's `paper` section, as a row of that table.
        workers: number of threads; 0: one per core.
        together: the processes that call this at the same time with the same arguments but `output`.
        elsewhere: score the cases there instead.
        progress: optional callback that receives progress updates.

    Raises:
        DatasetError: nothing to compare, or an unknown metric, rule or protocol.
    """
    progress = progress or Silence()
    if workers < 0:
        raise DatasetError(f"--workers {workers}: expected 0 or more. Use 0 for one thread per core.")
    try:
        rules = rules_for(protocol, empty, hd95, penalty_mm)
        asked = parse_metrics(metrics or rules.metrics, rules.hd95)
    except ValueError as error:
        raise DatasetError(f"evaluate: {error}") from error
    whole = pair_up(predictions, references, labels, regions)
    if regions_alone:
        whole = replace(whole, answers=replace(whole.answers, labels=None))
    pairing = restricted(restricted(whole, cases), "predicted" if only_predicted else None)
    backgrounds = Backgrounds(images, references, frozenset(pairing.pairs))
    if without := backgrounds.check():
        count = f"{len(without)} of {len(pairing.pairs)}"
        progress.say(f"--images {images}: no image of {count} cases ({some_of(without)})")
    subjects = subjects or _subjects_of(references)
    cases_to_score = [
        (
            case, reference, prediction, pairing.answers.regions, pairing.answers.labels, asked, rules,
            resample, subject_of(case, subjects), pairing.answers.ignored, pairing.answers.source,
            pairing.answers.segments,
        )
        for case, (reference, prediction) in pairing.pairs.items()
    ]  # fmt: skip
    if together:
        cases_to_score = together.share(cases_to_score)
    progress.start("evaluating", len(cases_to_score), "cases")
    if elsewhere:
        scores = _scored_elsewhere(cases_to_score, elsewhere, progress)
    else:
        scores = _scored_in_threads(cases_to_score, workers, progress)
    if together:
        scores = together.gather(scores)
    wanted = pairing.answers.regions or {
        str(label): (label,) for label in sorted({int(name) for case in scores for name in case.regions})
    }
    scored = {name: tuple(members) for name, members in wanted.items()}
    summaries = summarize(scores, list(scored), asked, rules, level)
    notes = [f"protocol {rules.name}: {', '.join(metric.name for metric in asked)}", rules.describe()]
    notes += [f"labels: {pairing.answers.source}", *pairing.answers.notes]
    if people := repeated_people(case.subject for case in scores):
        notes.append(people)
    if regions_alone:
        notes += _about_labels(scores, scored)
    if missing := sum(prediction is None for _, prediction in pairing.pairs.values()):
        count = f"{missing} of {len(pairing.pairs)}"
        notes.append(
            f"{count} references have no prediction and count as missed, unless --only-predicted is given"
        )
    used = [path for pair in whole.pairs.values() for path in pair if path is not None]
    used += [image for case, (path, _) in whole.pairs.items() for image in backgrounds.beside(case, path)]
    others = other_files((predictions, references), [*used, *whole.extra])
    notes += others
    if left := len(whole.pairs) - len(pairing.pairs):
        notes.append(f"{left} of {len(whole.pairs)} references left out, as asked")
    evaluation = MaskEvaluation(
        table=summary_table(summaries, asked, notes, level),
        summaries=tuple(summaries),
        cases=tuple(scores),
        regions=scored,
        metrics=asked,
        rules=rules,
        settings={**_settings(pairing, asked, rules, level), "other_files": others},
        output=output,
        paper_table=brats_table(summaries, predictions.resolve().name, paper) if table == "brats" else None,
        faults=_faults(scores, pairing),
    )
    if output is None:
        return evaluation
    written = evaluation.write_paper_table("brats")
    if report:
        title = f"Evaluation of {predictions.resolve().name}"
        lead = f"Predictions {predictions} against references {references}."
        pictures = find_pictures(evaluation, worst, pairing.answers, backgrounds)
        written.append(write_report(evaluation, title, lead, detail_table(summaries, notes, level), pictures))
    written += write_tables(evaluation)
    return replace(evaluation, written=tuple(written))


def _scored_in_threads(
    arguments: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> list[CaseScores]:
    """The scores of all cases, in their order; reading and the compiled loops release the GIL."""
    loops()  # compiled before the threads start
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        futures = [pool.submit(score_files, *each) for each in arguments]
        try:
            cases = []
            for future in futures:
                cases.append(future.result())
                progress.advance(case=cases[-1].case)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return cases


def _scored_elsewhere(
    arguments: Sequence[tuple[Any, ...]], elsewhere: Workers, progress: Progress
) -> list[CaseScores]:
    """The same in the workers of a pool."""
    work = [(Case(each[0], ()), *each[1:]) for each in arguments]
    found = {
        case.id: scores
        for case, scores in over_cases(_score, work, elsewhere.number, progress, elsewhere.pool)
    }
    return [
        CaseScores(case, {}, reference, prediction, math.nan, case, str(scores))
        if isinstance(scores := found[case], CaseError)
        else scores
        for case, reference, prediction, *_ in arguments
    ]


def _score(case: Case, *arguments: Any) -> CaseScores:
    return score_files(case.id, *arguments)


def _subjects_of(references: Path) -> dict[str, str]:
    """Case id -> subject, if the references are those of a prepared dataset."""
    for folder in (references, references.parent):
        if prepared.recognizes(folder):
            return {case.id: case.subject for case in PreparedIndex.read(folder / "dataset.json").cases}
    return {}


def _about_labels(cases: Sequence[CaseScores], regions: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Which labels are in no region, and which labels of the regions occur nowhere."""
    found = {label for case in cases for label in case.labels}
    asked = {label for members in regions.values() for label in members} - {0}
    lines = []
    if others := sorted(found - asked):
        lines.append(f"other labels, ignored: {len(others)} ({some_of(map(str, others))})")
    if absent := sorted(asked - found):
        lines.append(f"labels that occur in no file: {some_of(map(str, absent))}")
    return lines


def _faults(cases: Sequence[CaseScores], pairing: Pairing) -> tuple[CaseError, ...]:
    lines = [case.fault for case in cases if case.fault is not None]
    lines += [f"{path}: has no reference of this name. Add it, or move the file." for path in pairing.extra]
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


def _as_requested(predictions: Path, references: Path, options: EvaluateOptions) -> MaskEvaluation:
    asked, rules = options.recipe, options.section
    decided = [f"--{name}" for name in ("hd95", "empty") if getattr(options, name) is not None]
    if options.protocol and decided:
        raise RecipeError(
            f"--protocol {options.protocol} already sets {' and '.join(decided)}. Remove one of the options."
        )
    metrics = tuple(options.metrics.split(",")) if options.metrics else None
    regions = asked.dataset.regions if asked else None
    return evaluate(
        predictions,
        references,
        labels=asked.dataset.labels if asked and not options.regions else None,
        regions=read_regions(options.regions) if options.regions else regions,
        regions_alone=bool(options.regions),
        metrics=metrics or (None if options.protocol else rules.metrics),
        hd95=options.hd95 or rules.hd95,
        empty=options.empty or rules.empty,
        penalty_mm=options.penalty,
        cases=options.cases,
        only_predicted=options.only_predicted,
        table="brats" if options.table else None,
        **options.chosen("protocol", "level", "resample", "output", "report", "worst", "images", "paper"),
        elsewhere=options.on,
        **options.chosen("workers", "progress"),
    )


def _read_back(folder: Path, name: str, summary: SegmentationSummary) -> Evaluated:
    """Infinite distances and cases that could not be scored get the penalty of the evaluation.

    A region that is in neither mask counts as perfect if another model predicted it.
    """
    metrics = [parse_metric(text) for text in summary.settings.metrics]
    rows = read_case_rows(
        folder, ["case", "region", "subject", "penalty_mm", "presence", *(metric.name for metric in metrics)]
    )
    values: dict[tuple[str, str, str], float] = {}
    for line, row in enumerate(rows, start=2):
        for metric in metrics:
            value = read_number(folder, line, row[metric.name])
            if math.isinf(value) or row["presence"] == "unscored":
                lower = METRICS[metric.kind].better == "lower"
                value = read_number(folder, line, row["penalty_mm"]) if lower else summary.settings.miss
            values[row["case"], row["region"], metric.name] = value
    perfect = {"higher": 1.0, "lower": 0.0}
    questions = [
        Question(region, metric.name, better == "higher", perfect[better])
        for region in summary.regions
        for metric in metrics
        if (better := METRICS[metric.kind].better)
    ]
    cases = {row["case"]: row["case"] for row in rows}
    subjects = {row["case"]: row["subject"] for row in rows}
    rules = f"{summary.settings.protocol}: {summary.settings.rules}"
    regions = {region: tuple(labels) for region, labels in summary.regions.items()}
    return Evaluated(
        name, "segmentation", tuple(questions), values, subjects, cases, rules, regions=regions
    )  # fmt: skip


SCORER = Scorer(
    contents="segmentation masks",
    recognizes=lambda predictions: True,
    options=frozenset(
        {"regions", "metrics", "hd95", "empty", "protocol", "penalty", "resample", "images", "on"}
    ),
    table="brats",
    evaluate=_as_requested,
    read_back=_read_back,
)
