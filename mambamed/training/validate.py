"""Validation of whole cases with the best network of a fold, scored on their native grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mambamed.answers.validation import Network, validation_of
from mambamed.documents.evaluation import read_summary
from mambamed.documents.splits import FoldName
from mambamed.errors import DatasetError
from mambamed.preparation.store import PreparedDataset
from mambamed.report.tables import text_lines
from mambamed.run.folder import Run
from mambamed.run.model import load_network
from mambamed.run.workplace import Workplace
from mambamed.training.journal import Journal
from mambamed.training.ranks import Ranks
from mambamed.training.stopping import StopRequests
from mambamed.volumes.ensemble import windows_of

SUMMARY = "summary.json"


@dataclass(frozen=True)
class VolumeScores:
    """Result of a validation."""

    scores: dict[str, float]  # name -> mean of the task's main metric over the cases, on their native grids
    faults: tuple[str, ...]  # cases that could not be scored, one line each


def validate_volumes(
    run: Run,
    fold: FoldName,
    dataset: PreparedDataset,
    case_ids: Sequence[str],
    place: Workplace,
    journal: Journal,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    stop: StopRequests | None = None,
) -> VolumeScores | None:
    """Predict and score the validation cases with the best checkpoint of a fold.

    The processes share the cases, to predict and to score them; all but the first one return None.
    Predictions, cases.csv, summary.csv and summary.json are written to the fold's folder, summary.json last.

    Raises:
        KeyboardInterrupt: at a request to stop, whose reason it holds; nothing is scored then.
    """
    validation, own = validation_of(run, fold, dataset), ranks.share(case_ids)
    module = load_network(run, fold, "best", place.device)
    module = module.to(memory_format=place.layout)  # type: ignore[call-overload]
    network = Network(module, windows_of(run, None, None, place.device), place)
    journal.progress.start(f"validating fold {fold}", len(own), "cases")
    predicted = []
    for first in range(0, len(own), validation.cases_at_once):
        cases = [dataset.case(case_id) for case_id in own[first : first + validation.cases_at_once]]
        if stop and ranks.world == 1 and (reason := stop.reason()):
            raise KeyboardInterrupt(reason)
        predicted += validation.predict(cases, network)
        journal.progress.advance(len(cases), case=cases[-1].id)
    predicted = ranks.gather(predicted)
    found = validation.score(case_ids, predicted, journal.progress, ranks if ranks.world > 1 else None)
    if found is None:
        return None
    for line in (*text_lines(found.evaluation.table), *found.notes):
        journal.say(line)
    return VolumeScores(found.scores, tuple(str(fault) for fault in found.evaluation.faults))


def read_scores(run: Run, fold: FoldName) -> VolumeScores | None:
    """The scores that an earlier validation of this fold wrote; None if they are absent or outdated."""
    if not run.is_validated(fold):
        return None
    try:
        summary = read_summary(run.fold_folder(fold) / SUMMARY)
    except DatasetError:
        return None
    scores = summary.means(run.task.main_metric)
    return VolumeScores(scores, summary.faults) if scores else None
