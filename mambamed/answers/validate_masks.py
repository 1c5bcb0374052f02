"""Validation of segmentation: masks of the validation cases on their native grids, scores, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from mambamed.answers.mask_calibration import VoxelSample, sample_voxels, temperature_of
from mambamed.answers.validation import Crew, Network, Scored
from mambamed.cores import cores
from mambamed.documents.run import Calibration
from mambamed.documents.splits import FoldName
from mambamed.evaluation.masks import evaluate
from mambamed.io.images import read_header, write_image
from mambamed.preparation.store import CaseFiles, PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.run.calibration import write_calibration
from mambamed.run.folder import Run
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import native_labels
from mambamed.volumes.sliding_window import window_logits

MASKS = "validation"


class MaskValidation:
    """Writes `validation/CASE.nii.gz`, calibration.json, cases.csv, summary.csv and, last, summary.json."""

    cases_at_once = 1

    def __init__(self, run: Run, fold: FoldName, dataset: PreparedDataset) -> None:
        self._run, self._fold, self._dataset = run, fold, dataset
        self._folder = run.fold_folder(fold)
        self._task = cast(Segmentation, run.task)

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[VoxelSample | None]:
        """Write the masks of the cases, and keep voxels for the temperature, if it is to be chosen.

        Masks are scored from their files, like those of `predict`.
        """
        samples: list[VoxelSample | None] = []
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
            samples.append(self._sample(case, logits))
        return samples

    def _sample(self, case: PreparedCase, logits: torch.Tensor) -> VoxelSample | None:
        if not self._run.recipe.evaluation.calibrate:
            return None
        target = self._task.encode(torch.from_numpy(np.array(case.label())))
        truth = self._task.masks(target[None])[0] if self._task.by_regions else target
        return sample_voxels(logits.numpy(), truth.numpy(), (target >= 0).numpy())

    def score(
        self,
        case_ids: Sequence[str],
        predicted: Sequence[VoxelSample | None],
        progress: Progress,
        crew: Crew | None = None,
    ) -> Scored | None:
        """Means of the recipe's first metric; each process scores its share of the masks."""
        rules, manifest = self._run.recipe.evaluation, self._run.manifest
        writes = crew is None or crew.leads
        if writes and (samples := [sample for sample in predicted if sample is not None]):
            calibration = Calibration(temperature=temperature_of(samples), cases=len(samples))
            write_calibration(self._run, self._fold, calibration)
        evaluation = evaluate(
            self._folder / MASKS,
            self._dataset.root / "references",
            labels=manifest.labels,
            regions=manifest.regions or None,
            metrics=rules.metrics,
            hd95=rules.hd95,
            empty=rules.empty,
            cases=case_ids,
            output=self._folder if writes else None,
            workers=0 if crew is None else max(1, cores() // crew.beside),
            together=crew,
            progress=progress,
        )
        if not writes:
            return None
        main = self._task.main_metric
        return Scored(evaluation, {s.region: s.mean for s in evaluation.summaries if s.metric == main})
