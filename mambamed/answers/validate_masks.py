"""Validation of segmentation: masks of the validation cases on their native grids, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from mambamed.answers.validation import Network, Scored
from mambamed.documents.splits import FoldName
from mambamed.evaluation.masks import evaluate
from mambamed.io.images import read_header, write_image
from mambamed.preparation.store import CaseFiles, PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.run.folder import Run
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import native_labels
from mambamed.volumes.sliding_window import window_logits

MASKS = "validation"


class MaskValidation:
    """Writes `validation/CASE.nii.gz`, cases.csv, summary.csv and, last, summary.json."""

    cases_at_once = 1

    def __init__(self, run: Run, fold: FoldName, dataset: PreparedDataset) -> None:
        self._run, self._folder, self._dataset = run, run.fold_folder(fold), dataset
        self._task = cast(Segmentation, run.task)

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[None]:
        """Write the masks of the cases; masks are scored from their files, like those of `predict`."""
        for case in cases:
            logits = window_logits(
                [network.module],
                torch.from_numpy(np.ascontiguousarray(case.image(), np.float32)),
                network.windows,
                device=network.place.device,
                precision=network.place.precision,
                layout=network.place.layout,
            )
            header = read_header(CaseFiles.of(self._dataset.root, case.id).reference)
            labels = native_labels(logits, case.geometry, self._task)
            write_image(self._folder / MASKS / f"{case.id}.nii.gz", labels, like=header)
        return [None] * len(cases)

    def score(self, case_ids: Sequence[str], predicted: Sequence[None], progress: Progress) -> Scored:
        """Means of the recipe's first metric."""
        rules, manifest = self._run.recipe.evaluation, self._run.manifest
        evaluation = evaluate(
            self._folder / MASKS,
            self._dataset.root / "references",
            labels=manifest.labels,
            regions=manifest.regions or None,
            metrics=rules.metrics,
            hd95=rules.hd95,
            empty=rules.empty,
            cases=case_ids,
            output=self._folder,
            progress=progress,
        )
        main = self._task.main_metric
        return Scored(evaluation, {s.region: s.mean for s in evaluation.summaries if s.metric == main})
