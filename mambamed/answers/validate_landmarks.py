"""Validation of landmarks: points of the validation cases, and the thresholds of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from mambamed.answers.located import Located, learned_thresholds, locate, write_located
from mambamed.answers.validation import Crew, Network, Scored
from mambamed.documents.splits import FoldName
from mambamed.evaluation.points import evaluate_points
from mambamed.preparation.store import PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.run.folder import Run
from mambamed.run.thresholds import write_thresholds
from mambamed.tasks.landmarks import Landmarks
from mambamed.volumes.sliding_window import slab_axis, window_slabs

POINTS = "validation"


class LandmarkValidation:
    """Writes thresholds.json, `validation/CASE.json`, cases.csv, summary.csv and, last, summary.json."""

    cases_at_once = 1

    def __init__(self, run: Run, fold: FoldName, dataset: PreparedDataset) -> None:
        self._run, self._fold, self._dataset = run, fold, dataset
        self._task = cast(Landmarks, run.task)

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[Located]:
        """The points of the cases, with their scores."""
        located = []
        for case in cases:
            image = torch.from_numpy(np.ascontiguousarray(case.image(), np.float32))
            slabs = window_slabs(
                [network.module],
                image,
                network.windows,
                device=network.place.device,
                precision=network.place.precision,
                layout=network.place.layout,
                axis=slab_axis(image.shape[1:], network.windows.patch_size),
            )
            located.append(locate(slabs, case.geometry, self._task))
        return located

    def score(
        self,
        case_ids: Sequence[str],
        predicted: Sequence[Located],
        progress: Progress,
        crew: Crew | None = None,
    ) -> Scored | None:
        """Choose thresholds on the scores of the points; means of the radial error."""
        if crew is not None and not crew.leads:
            return None
        run, names = self._run, self._task.names
        folder = run.fold_folder(self._fold)
        references = [self._dataset.case(case_id).points or {} for case_id in case_ids]
        thresholds = learned_thresholds(predicted, references)
        write_thresholds(run, self._fold, thresholds, len(case_ids))
        if run.recipe.landmarks.threshold is not None:
            thresholds = dict.fromkeys(names, run.recipe.landmarks.threshold)
        for case_id, found in zip(case_ids, predicted, strict=True):
            write_located(folder / POINTS / f"{case_id}.json", found, thresholds, run.recipe, case_id)
        evaluation = evaluate_points(
            folder / POINTS,
            self._dataset.root,
            landmarks=names,
            distances_mm=run.recipe.evaluation.sdr_mm,
            cases=case_ids,
            output=folder,
            report=False,
        )
        return Scored(evaluation, {s.name: s.values["mre_mm"] for s in evaluation.summaries[:-1]})
