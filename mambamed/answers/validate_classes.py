"""Validation of classification: probabilities of the validation cases, temperature and threshold.

The scores are optimistically biased, because epoch, temperature and threshold are chosen on the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from mambamed.answers.classification import calibrated
from mambamed.answers.validation import Crew, Network, Scored
from mambamed.documents.splits import FoldName
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.metrics.calibration import softmax
from mambamed.preparation.store import PreparedCase, PreparedDataset
from mambamed.progress import Progress
from mambamed.run.calibration import write_calibration
from mambamed.run.folder import Run
from mambamed.tasks.classification import Classification, centered
from mambamed.tasks.covariates import covariate_numbers, with_covariates
from mambamed.volumes.forward import class_logits

PREDICTIONS = "predictions.csv"
_BIASED = "epoch, threshold and temperature were chosen on these very cases: test on others"


class ClassValidation:
    """Writes calibration.json, predictions.csv, cases.csv, summary.csv and, last, summary.json."""

    def __init__(self, run: Run, fold: FoldName, dataset: PreparedDataset) -> None:
        self._run, self._fold, self._dataset = run, fold, dataset
        self._task = cast(Classification, run.task)
        self.cases_at_once = run.plan.batch_size

    def predict(self, cases: Sequence[PreparedCase], network: Network) -> list[NDArray[np.float64]]:
        """`(K,)` logits of each case."""
        wanted = self._run.recipe.dataset.covariates
        patches = [
            with_covariates(
                centered(case.image().astype(np.float32), self._run.plan.patch_size),
                covariate_numbers(case.covariates, wanted, case.id),
            )
            for case in cases
        ]
        logits = class_logits(
            network.module,
            torch.from_numpy(np.stack(patches)),
            network.windows.mirror_axes,
            network.windows.mirror_order,
            device=network.place.device,
            precision=network.place.precision,
            layout=network.place.layout,
        )
        return list(logits.double().numpy())

    def score(
        self,
        case_ids: Sequence[str],
        predicted: Sequence[NDArray[np.float64]],
        progress: Progress,
        crew: Crew | None = None,
    ) -> Scored | None:
        """Choose temperature and threshold; areas under the ROC curve."""
        if crew is not None and not crew.leads:
            return None
        run, task, logits = self._run, self._task, np.stack(predicted)
        folder = run.fold_folder(self._fold)
        truth = np.array([task.classes.index(str(self._dataset.case(c).class_name)) for c in case_ids])
        calibration = calibrated(logits, truth, run.recipe.evaluation)
        probabilities = Probabilities(
            classes=task.classes,
            cases=tuple(case_ids),
            values=softmax(logits / (calibration.temperature or 1.0)),
            threshold=calibration.threshold,
            calibrated=calibration.temperature is not None,
        )
        write_calibration(run, self._fold, calibration)
        write_probabilities(folder / PREDICTIONS, probabilities, [task.classes[k] for k in truth])
        evaluation = evaluate_probabilities(
            folder / PREDICTIONS, self._dataset.root, only_predicted=True, output=folder
        )
        scores = {s.name: s.mean for s in evaluation.summaries if s.metric == task.main_metric}
        return Scored(evaluation, scores, (_BIASED,))
