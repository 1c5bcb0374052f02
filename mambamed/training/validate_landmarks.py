"""Validation of landmarks: the points of every validation case in the world, and from which score on each
counts as there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mambamed.answers.located import Located, learned_thresholds, locate, write_located
from mambamed.evaluation.points import evaluate_points
from mambamed.preparation.store import PreparedDataset
from mambamed.runs.folder import Run
from mambamed.runs.model import load_network
from mambamed.runs.thresholds import write_thresholds
from mambamed.runs.workplace import Workplace
from mambamed.tasks.landmarks import Landmarks
from mambamed.training.journal import Journal
from mambamed.training.ranks import Ranks
from mambamed.training.validate import VolumeScores
from mambamed.volumes.ensemble import windows_of
from mambamed.volumes.sliding_window import slab_axis, window_slabs

POINTS = "validation"


def validate_landmarks(
    run: Run,
    fold: int,
    dataset: PreparedDataset,
    case_ids: Sequence[str],
    place: Workplace,
    journal: Journal,
    ranks: Ranks,
) -> VolumeScores | None:
    """Place and score the landmarks of the validation cases, choose thresholds on their scores.

    Args:
        run: whose best checkpoint of `fold` answers.
        fold: index of the fold.
        dataset: the prepared cases, with their points.
        case_ids: the fold's validation cases.
        place: where to compute.
        journal: hears how far the work is.
        ranks: the processes that share the cases; the first one scores them.

    Returns:
        Mean radial error of every landmark, mm; None in the processes that follow. The points of each case,
        thresholds.json, cases.csv, summary.csv and summary.json lie in the fold's folder; the summary is
        written last.
    """
    folder, task = run.fold_folder(fold), run.task
    assert isinstance(task, Landmarks)
    located = ranks.gather(_located(run, fold, dataset, ranks.share(case_ids), place, journal))
    if not ranks.leads:
        return None
    thresholds = learned_thresholds(located, [dataset.case(case_id).points or {} for case_id in case_ids])
    write_thresholds(run, fold, thresholds, len(case_ids))
    if run.recipe.landmarks.threshold is not None:
        thresholds = dict.fromkeys(task.names, run.recipe.landmarks.threshold)
    for case_id, found in zip(case_ids, located, strict=True):
        write_located(folder / POINTS / f"{case_id}.json", found, thresholds, run.recipe, case_id)
    evaluation = evaluate_points(
        folder / POINTS,
        dataset.root,
        landmarks=task.names,
        distances_mm=run.recipe.evaluation.sdr_mm,
        cases=case_ids,
        output=folder,
        report=False,
    )
    for line in (evaluation.table.title, *(" | ".join(row) for row in evaluation.table.rows)):
        journal.say(line)
    scores = {s.name: s.values["mre_mm"] for s in evaluation.summaries[:-1]}
    return VolumeScores(scores, tuple(str(fault) for fault in evaluation.faults))


def _located(
    run: Run, fold: int, dataset: PreparedDataset, case_ids: Sequence[str], place: Workplace, journal: Journal
) -> list[Located]:
    network = load_network(run, fold, "best", place.device)
    network = network.to(memory_format=place.layout)  # type: ignore[call-overload]
    windows, task = windows_of(run, None, None, place.device), run.task
    assert isinstance(task, Landmarks)
    journal.progress.start(f"validating fold {fold}", len(case_ids), "cases")
    located = []
    for case_id in case_ids:
        case = dataset.case(case_id)
        image = torch.from_numpy(np.ascontiguousarray(case.image(), np.float32))
        slabs = window_slabs(
            [network],
            image,
            windows,
            device=place.device,
            precision=place.precision,
            layout=place.layout,
            axis=slab_axis(image.shape[1:], windows.patch_size),
        )
        located.append(locate(slabs, case.geometry, task))
        journal.progress.advance(1, case=case_id)
    return located
