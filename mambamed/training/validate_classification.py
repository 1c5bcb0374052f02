"""Validation of a classifier: every validation case once, its threshold and temperature learned from them.

The scores of this fold are those of cases that chose epoch, threshold and temperature: they flatter. What a
model is worth is told by cases that it never met: `classify` them, then `evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mambamed.answers.classification import calibrated
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.metrics.calibration import softmax
from mambamed.preparation.store import PreparedDataset
from mambamed.runs.calibration import write_calibration
from mambamed.runs.folder import Run
from mambamed.runs.model import load_network
from mambamed.runs.workplace import Workplace
from mambamed.tasks.classification import Classification, centered
from mambamed.tasks.covariates import covariate_numbers, with_covariates
from mambamed.training.journal import Journal
from mambamed.training.ranks import Ranks
from mambamed.training.validate import VolumeScores
from mambamed.volumes.ensemble import windows_of
from mambamed.volumes.forward import class_logits

PREDICTIONS = "predictions.csv"


def validate_classification(
    run: Run,
    fold: int,
    dataset: PreparedDataset,
    case_ids: Sequence[str],
    place: Workplace,
    journal: Journal,
    ranks: Ranks,
) -> VolumeScores | None:
    """Classify and score the validation cases, choose threshold and temperature on them.

    Args:
        run: whose best checkpoint of `fold` answers.
        fold: index of the fold.
        dataset: the prepared cases, with their classes.
        case_ids: the fold's validation cases.
        place: where to compute.
        journal: hears how far the work is.
        ranks: the processes that share the cases; the first one scores them.

    Returns:
        AUC of every class; None in the processes that follow. predictions.csv, calibration.json, cases.csv,
        summary.csv and summary.json lie in the fold's folder; the summary is written last.
    """
    folder, task = run.fold_folder(fold), run.task
    assert isinstance(task, Classification)
    own = _logits(run, fold, dataset, ranks.share(case_ids), place, journal)
    logits = np.stack(ranks.gather(list(own)))
    if not ranks.leads:
        return None
    truth = np.array([task.classes.index(str(dataset.case(case_id).class_name)) for case_id in case_ids])
    calibration = calibrated(logits, truth, run.recipe.evaluation)
    probabilities = Probabilities(
        classes=task.classes,
        cases=tuple(case_ids),
        values=softmax(logits / (calibration.temperature or 1.0)),
        threshold=calibration.threshold,
        calibrated=calibration.temperature is not None,
    )
    write_calibration(run, fold, calibration)
    write_probabilities(folder / PREDICTIONS, probabilities, [task.classes[k] for k in truth])
    evaluation = evaluate_probabilities(
        folder / PREDICTIONS, dataset.root, only_predicted=True, output=folder
    )
    for line in (evaluation.table.title, *(" | ".join(row) for row in evaluation.table.rows)):
        journal.say(line)
    journal.say("epoch, threshold and temperature were chosen on these very cases: test on others")
    scores = {s.name: s.mean for s in evaluation.summaries if s.metric == task.score_name}
    return VolumeScores(scores, tuple(str(fault) for fault in evaluation.faults))


def _logits(
    run: Run, fold: int, dataset: PreparedDataset, case_ids: Sequence[str], place: Workplace, journal: Journal
) -> NDArray[np.float64]:
    """`(n, K)` of the cases, in their order."""
    network = load_network(run, fold, "best", place.device)
    network = network.to(memory_format=place.layout)  # type: ignore[call-overload]
    plan, axes = run.plan, windows_of(run, None, None, place.device).mirror_axes
    journal.progress.start(f"validating fold {fold}", len(case_ids), "cases")
    answers = []
    for first in range(0, len(case_ids), plan.batch_size):
        some = [dataset.case(case_id) for case_id in case_ids[first : first + plan.batch_size]]
        patches = [
            with_covariates(
                centered(case.image().astype(np.float32), plan.patch_size),
                covariate_numbers(case.covariates, run.recipe.dataset.covariates, case.id),
            )
            for case in some
        ]
        stack = torch.from_numpy(np.stack(patches))
        answers.append(
            class_logits(
                network,
                stack,
                axes,
                device=place.device,
                precision=place.precision,
                layout=place.layout,
            )
        )
        journal.progress.advance(len(some), case=some[-1].id)
    return torch.cat(answers).double().numpy() if answers else np.zeros((0, 0))
