"""Validation of whole cases: the fold's best network over them, scored on their native grids."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mambamed.errors import DatasetError
from mambamed.evaluation.masks import evaluate
from mambamed.io.images import read_header, write_image
from mambamed.io.json_files import read_json
from mambamed.preparation.store import CaseFiles, PreparedDataset
from mambamed.runs.folder import Run
from mambamed.runs.model import load_network
from mambamed.runs.workplace import Workplace
from mambamed.tasks.segmentation import Segmentation
from mambamed.training.journal import Journal
from mambamed.training.ranks import Ranks
from mambamed.volumes.ensemble import windows_of
from mambamed.volumes.restore import native_labels
from mambamed.volumes.sliding_window import window_logits

MASKS = "validation"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class VolumeScores:
    """What the validation found.

    Attributes:
        scores: name -> mean score over the validation cases, on their native grids.
        faults: cases that could not be scored, a line each.
    """

    scores: dict[str, float]
    faults: tuple[str, ...]


# Task -> how its validation cases are answered and scored, as a function like `validate_segmentation`.
VALIDATIONS = {
    "segmentation": "mambamed.training.validate:validate_segmentation",
    "classification": "mambamed.training.validate_classification:validate_classification",
    "landmarks": "mambamed.training.validate_landmarks:validate_landmarks",
}
# Task -> the metric of summary.json that stands for it.
MAIN_METRIC = {"segmentation": "dice", "classification": "auc", "landmarks": "error_mm"}


def validate_volumes(
    run: Run,
    fold: int,
    dataset: PreparedDataset,
    case_ids: Sequence[str],
    place: Workplace,
    journal: Journal,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> VolumeScores | None:
    """Predict and score the validation cases in the way of the run's task; as `validate_segmentation`."""
    module, _, name = VALIDATIONS[run.recipe.task].partition(":")
    return getattr(importlib.import_module(module), name)(run, fold, dataset, case_ids, place, journal, ranks)


def validate_segmentation(
    run: Run,
    fold: int,
    dataset: PreparedDataset,
    case_ids: Sequence[str],
    place: Workplace,
    journal: Journal,
    ranks: Ranks,
) -> VolumeScores | None:
    """Segment and score the validation cases.

    Args:
        run: whose best checkpoint of `fold` answers; its recipe says how it is led over a volume.
        fold: index of the fold.
        dataset: the prepared cases, with their references.
        case_ids: the fold's validation cases.
        place: where to compute.
        journal: hears how far the work is.
        ranks: the processes that share the cases; the first one scores them.

    Returns:
        Mean Dice of every structure; None in the processes that follow. The masks, cases.csv, summary.csv
        and summary.json lie in the fold's folder; the summary is written last.
    """
    folder = run.fold_folder(fold)
    network = load_network(run, fold, "best", place.device)
    network = network.to(memory_format=place.layout)  # type: ignore[call-overload]
    task = run.task
    assert isinstance(task, Segmentation)
    windows = windows_of(run, None, None, place.device)
    own = ranks.share(case_ids)
    journal.progress.start(f"validating fold {fold}", len(own), "cases")
    for case_id in own:
        case = dataset.case(case_id)
        image = torch.from_numpy(np.ascontiguousarray(case.image(), np.float32))
        logits = window_logits(
            [network], image, windows, device=place.device, precision=place.precision, layout=place.layout
        )
        header = read_header(CaseFiles.of(dataset.root, case_id).reference)
        labels = native_labels(logits, case.geometry, task)
        write_image(folder / MASKS / f"{case_id}.nii.gz", labels, like=header)
        journal.progress.advance(1, case=case_id)
    ranks.wait()
    if not ranks.leads:
        return None
    rules = run.recipe.evaluation
    evaluation = evaluate(
        folder / MASKS,
        dataset.root / "references",
        labels=run.manifest.labels,
        regions=run.manifest.regions or None,
        metrics=rules.metrics,
        hd95=rules.hd95,
        empty=rules.empty,
        cases=case_ids,
        output=folder,
        progress=journal.progress,
    )
    for line in (evaluation.table.title, *(" | ".join(row) for row in evaluation.table.rows)):
        journal.say(line)
    known = read_scores(run, fold)
    assert known is not None
    return VolumeScores(known.scores, tuple(str(fault) for fault in evaluation.faults))


def read_scores(run: Run, fold: int) -> VolumeScores | None:
    """The scores that an earlier validation of this fold wrote; None if they are absent or outdated."""
    path: Path = run.fold_folder(fold) / SUMMARY
    if not run.is_validated(fold):
        return None
    try:
        document = read_json(path)
        metric = MAIN_METRIC[run.recipe.task]
        rows = [s for s in document["summaries"] if s["metric"] == metric]
        scores = {s["region"] if "region" in s else s["name"]: float(s["mean"]) for s in rows}
    except (DatasetError, KeyError, TypeError, ValueError):
        return None
    return VolumeScores(scores, tuple(document.get("faults", ())))
