"""From the evaluations of all runs to means over seeds, intervals, tests and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.evaluation import read_summary
from mambamed.documents.study import StudyDifference, StudyScore
from mambamed.errors import DatasetError, MambamedError
from mambamed.evaluation import read_evaluation
from mambamed.evaluation.paired_cases import check_alike, paired_values, shared_units, subjects_of
from mambamed.evaluation.read_back import ALL, Evaluated, Question
from mambamed.metrics.auc import auc_difference
from mambamed.metrics.statistics import bootstrap_interval, holm, mean_ranks, paired_test
from mambamed.studies.papers import paper_value
from mambamed.studies.plan import StudyCell, Trained

AVERAGE = "average"
AUC = "auc"


@dataclass(frozen=True)
class ScoredCell:
    """The evaluation of a run: all of its folds, each case once.

    Attributes:
        measured: of a whole evaluation, metric -> mean over the folds; of classes, e.g. AUC.
    """

    cell: StudyCell
    evaluated: Evaluated
    measured: Mapping[str, float]


@dataclass(frozen=True)
class DatasetResults:
    """The results on one dataset.

    Attributes:
        whole: name of the row over all structures: "average" of masks, otherwise "all".
        units: "cases" or "points".
        rules: how it was scored.
        scores: of every recipe, region and metric.
        differences: paired tests; Holm's correction is over those of the averages, and separately over those
            of single structures.
    """

    dataset: str
    whole: str
    units: str
    rules: str
    higher: Mapping[str, bool]
    scores: tuple[StudyScore, ...] = ()
    differences: tuple[StudyDifference, ...] = ()


def read_cell(cell: StudyCell) -> ScoredCell:
    """Read the evaluations of a run that is finished.

    Raises:
        DatasetError: one is missing or has faults, or the folds share a case.
    """
    folders = (
        [cell.evaluation] if cell.part == "test" else [cell.root / f"fold_{fold}" for fold in cell.folds]
    )
    read = [read_evaluation(folder, f"{cell.name}, {folder.name}") for folder in folders]
    check_alike(read)
    measured: dict[str, list[float]] = {}
    if read[0].classes:
        for folder in folders:
            rows = read_summary(folder / "summary.json").summaries
            for row in rows:
                if row.name == ALL or len(read[0].classes) == 2:
                    measured.setdefault(row.metric, []).append(row.mean)
    return ScoredCell(cell, joined(read, cell.name), {key: _mean(each) for key, each in measured.items()})


def joined(read: Sequence[Evaluated], name: str) -> Evaluated:
    """The evaluations of several folds as one.

    Raises:
        DatasetError: a case is in two of them.
    """
    first = read[0]
    whole = replace(first, name=name)
    for other in read[1:]:
        if twice := sorted(set(whole.cases) & set(other.cases)):
            raise DatasetError(f"{other.name}: {twice[0]} is scored in two folds. Correct splits.json.")
        tables = ()
        if whole.probabilities and other.probabilities:
            tables = ({**whole.probabilities[0], **other.probabilities[0]},)
        whole = replace(
            whole,
            questions=tuple(each for each in whole.questions if each in other.questions),
            values={**whole.values, **other.values},
            subjects={**whole.subjects, **other.subjects},
            cases={**whole.cases, **other.cases},
            truth={**whole.truth, **other.truth},
            probabilities=tables,
        )
    return whole


def results_of(
    dataset: str,
    rows: Sequence[Trained],
    scored: Sequence[ScoredCell],
    level: float,
    compare_with: str | None = None,
) -> DatasetResults:
    """Results of all runs on one dataset.

    Args:
        rows: the recipes, in the order of the tables; those without a run in `scored` are left out.
        level: confidence level of the intervals.
        compare_with: recipe that the others are tested against; None: every pair.

    Raises:
        DatasetError: the runs were scored on different cases or by different rules.
    """
    read = [each.evaluated for each in scored]
    check_alike(read)
    units = shared_units(read, common=False)
    people = subjects_of(read, units)
    owners = {row.name: [k for k, s in enumerate(scored) if s.cell.trained.name == row.name] for row in rows}
    owners = {name: places for name, places in owners.items() if places}
    questions = [each for each in read[0].questions if all(each in other.questions for other in read)]
    higher = {question.metric: question.higher_is_better for question in questions}
    known = compare_with in owners
    pairs = [pair for pair in combinations(owners, 2) if not known or compare_with in pair]
    table = _Table(dataset, {row.name: row for row in rows}, scored, owners, level, pairs)
    for question, kept, values in _with_averages(read, units, questions):
        table.add(question, [people[unit] for unit in kept], values)
    if read[0].classes:
        table.add_measured()
        if all(each.probabilities for each in read):
            table.add_auc(units, people)
    whole = AVERAGE if read[0].regions else ALL
    return DatasetResults(
        dataset, whole, read[0].units, read[0].rules, higher, tuple(table.scores), tuple(table.corrected())
    )


def _with_averages(
    read: Sequence[Evaluated], units: Sequence[str], questions: Sequence[Question]
) -> Iterable[tuple[Question, list[str], NDArray[np.float64]]]:
    """Question, units and `(runs, units)` values; of masks also the mean over the structures of each case."""
    found = [(question, *paired_values(read, units, question)) for question in questions]
    yield from found
    if not read[0].regions:
        return
    for metric in dict.fromkeys(question.metric for question in questions):
        parts = [(kept, values) for question, kept, values in found if question.metric == metric]
        place = {unit: number for number, unit in enumerate(units)}
        sums, counts = np.zeros((len(read), len(units))), np.zeros(len(units))
        for kept, values in parts:
            where = [place[unit] for unit in kept]
            sums[:, where] += values
            counts[where] += 1
        there: list[int] = np.flatnonzero(counts).tolist()
        higher = next(question.higher_is_better for question in questions if question.metric == metric)
        yield Question(AVERAGE, metric, higher), [units[k] for k in there], sums[:, there] / counts[there]


class _Table:
    """Collects scores and tests of one dataset.

    Args:
        rows: name -> recipe, of those that have runs.
        owners: name -> places of its runs among `scored`.
        pairs: of names that are tested.
    """

    def __init__(
        self,
        dataset: str,
        rows: Mapping[str, Trained],
        scored: Sequence[ScoredCell],
        owners: Mapping[str, Sequence[int]],
        level: float,
        pairs: Sequence[tuple[str, str]],
    ) -> None:
        self._dataset, self._rows, self._scored = dataset, rows, scored
        self._owners, self._level, self._pairs = owners, level, pairs
        self.scores: list[StudyScore] = []
        self.tests: list[StudyDifference] = []

    def add(self, question: Question, subjects: Sequence[str], values: NDArray[np.float64]) -> None:
        """A metric of single units: `(runs, units)`."""
        if not len(subjects):
            return
        place = {"region": question.region, "metric": question.metric}
        means = {name: values[list(runs)].mean(axis=0) for name, runs in self._owners.items()}
        ranks = mean_ranks(np.stack([*means.values()]), question.higher_is_better)
        for (name, mean), rank in zip(means.items(), ranks, strict=True):
            interval = bootstrap_interval(mean, subjects, self._level)
            facts = {"interval": interval, "rank": float(rank), "units": len(subjects)}
            self._score(name, self._by_seed(name, values.mean(axis=1)), **place, **facts)
        for one, other in self._pairs:
            test = paired_test(means[one], means[other], subjects, self._level)
            self._test(
                one,
                other,
                values.mean(axis=1),
                **place,
                subjects=test.pairs,
                difference=test.mean_difference,
                interval=test.interval,
                wilcoxon_holm=test.wilcoxon_p,
                permutation_holm=test.permutation_p,
                delong_holm=math.nan,
            )

    def add_measured(self) -> None:
        """Metrics of whole evaluations, which single cases do not have."""
        known = {(score.region, score.metric) for score in self.scores}
        for metric in self._scored[0].measured:
            values = [run.measured.get(metric, math.nan) for run in self._scored]
            for name in self._owners if (ALL, metric) not in known else ():
                facts = {"interval": (math.nan, math.nan), "rank": math.nan}
                units = len(self._scored[0].evaluated.cases)
                self._score(
                    name, self._by_seed(name, values), region=ALL, metric=metric, units=units, **facts
                )

    def add_auc(self, units: Sequence[str], people: Mapping[str, str]) -> None:
        """Tests of the AUC, over the cases that every run has classified."""
        tables = [dict(each.evaluated.probabilities[0]) for each in self._scored]
        cases = [case for case in units if all(case in table for table in tables)]
        known = self._scored[0].evaluated
        truth = [known.truth[case] == known.classes[1] for case in cases]
        subjects = [people[case] for case in cases]
        scores = [[table[case] for case in cases] for table in tables]
        areas = [run.measured.get(AUC, math.nan) for run in self._scored]
        for one, other in self._pairs:
            first, second = ([scores[k] for k in self._owners[name]] for name in (one, other))
            found = auc_difference(truth, first, second, self._level, subjects)
            self._test(
                one,
                other,
                areas,
                region=ALL,
                metric=AUC,
                subjects=len(set(subjects)),
                difference=found.second - found.first,
                interval=found.interval,
                wilcoxon_holm=math.nan,
                permutation_holm=math.nan,
                delong_holm=found.p,
            )

    def corrected(self) -> list[StudyDifference]:
        """The tests, p-values corrected by Holm's method within each family."""
        whole = [test for test in self.tests if test.region in (AVERAGE, ALL)]
        single = [test for test in self.tests if test.region not in (AVERAGE, ALL)]
        return [*_holm(whole), *_holm(single)]

    def _by_seed(self, name: str, values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
        """Seed -> value of a recipe's run."""
        return {str(self._scored[k].cell.seed): float(values[k]) for k in self._owners[name]}

    def _score(self, name: str, each: Mapping[str, float], region: str, metric: str, **facts: Any) -> None:
        known = [value for value in each.values() if not math.isnan(value)]
        alone = "error_mm" if self._scored[0].evaluated.units == "points" else "dice"
        self.scores.append(
            StudyScore(
                dataset=self._dataset,
                recipe=name,
                region=region,
                metric=metric,
                seeds=dict(each),
                mean=_mean(known),
                sd=float(np.std(known, ddof=1)) if len(known) > 1 else math.nan,
                paper=paper_value(self._rows[name].recipe.paper, alone, region, metric),
                **facts,
            )
        )

    def _test(
        self, first: str, second: str, values: Sequence[float] | NDArray[np.float64], **facts: Any
    ) -> None:
        one, other = (self._by_seed(name, values) for name in (first, second))
        seeds = {seed: other[seed] - value for seed, value in one.items() if seed in other}
        self.tests.append(
            StudyDifference(dataset=self._dataset, first=first, second=second, seeds=seeds, **facts)
        )


def _holm(tests: Sequence[StudyDifference]) -> list[StudyDifference]:
    keys = ("wilcoxon_holm", "permutation_holm", "delong_holm")
    corrected = {key: holm([getattr(test, key) for test in tests]) for key in keys}
    return [
        test.changed(**{key: corrected[key][number] for key in keys}) for number, test in enumerate(tests)
    ]


def read_cells(cells: Sequence[StudyCell]) -> tuple[list[ScoredCell], list[str]]:
    """The runs whose results can be read, and a line for each of the others."""
    scored, faults = [], []
    for cell in cells:
        try:
            scored.append(read_cell(cell))
        except MambamedError as error:  # noqa: PERF203
            faults.append(f"{cell.name}: {error}")
    return scored, faults


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
