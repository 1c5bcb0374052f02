"""A logistic regression on simple features of the prepared images: what a classifier must exceed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mambamed.documents.study import Study, StudyRecord
from mambamed.evaluation import read_evaluation
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.evaluation.read_back import ALL
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.metrics.statistics import bootstrap_interval
from mambamed.preparation.store import PreparedCase, PreparedDataset
from mambamed.studies.plan import cells_of, trained_rows
from mambamed.studies.results import joined, read_cells, results_of

LOGISTIC = "logistic_regression"
PERCENTILES = (5, 25, 50, 75, 95)
EDGES = np.linspace(-3, 3, 13)  # of the histogram, in SD of a case; the outer bins have no outer edge
PENALTIES = np.logspace(-4, 2, 7)  # inverse strengths, from the strongest penalty to the weakest
INNER_FOLDS = 5


def features_of(image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """The features of a case.

    Args:
        image: `(C, X, Y, Z)` as prepared; zeros are background.

    Returns: `(3 + 24 * C,)`: extent of the image along x, y and z (mm); of each channel the volume of the
        voxels that are not 0 (ml), their mean, SD, percentiles and histogram; of its halves at low and high
        x, that volume and the mean of all voxels.
    """
    array, voxel_ml = np.asarray(image, np.float64), math.prod(spacing_mm) / 1000
    found = [size * mm for size, mm in zip(array.shape[1:], spacing_mm, strict=True)]
    for channel in array:
        inside = channel[channel != 0]
        inside = inside if inside.size else np.zeros(1)
        counts, _ = np.histogram(np.clip(inside, EDGES[0], EDGES[-1]), EDGES)
        middle = math.ceil(channel.shape[0] / 2)
        halves = channel[:middle], channel[-middle:]
        found += [np.count_nonzero(channel) * voxel_ml, inside.mean(), inside.std()]
        found += [*np.percentile(inside, PERCENTILES), *(counts / inside.size)]
        found += [np.count_nonzero(half) * voxel_ml for half in halves]
        found += [half.mean() for half in halves]
    return np.array(found)


def fitted(features: NDArray[np.float64], classes: Sequence[str], subjects: Sequence[str]) -> Any:
    """A logistic regression on standardized features; its L2 penalty is chosen by cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inner = StratifiedGroupKFold(min(INNER_FOLDS, len(set(subjects))), shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    search = GridSearchCV(model, {"logisticregression__C": PENALTIES}, scoring="accuracy", cv=inner)
    return search.fit(features, classes, groups=subjects)


def score_logistic(prepared: Path, folds: Sequence[int], run: Path) -> str:
    """Fit on the training cases of each fold, and evaluate its validation cases as those of a network.

    Two classes are told apart at a probability of 0.5: nothing is chosen on the validation cases.

    Args:
        run: where the predictions and evaluations of the folds go, in fold_N.

    Returns: The accuracy over all folds, with its interval over subjects.
    """
    dataset = PreparedDataset.open(prepared)
    classes = tuple(dataset.manifest.classes)
    spacing_mm = dataset.plan.spacing_mm
    known = {each: dataset.case(each) for each in dataset.case_ids}
    features = {name: features_of(case.image(), spacing_mm) for name, case in known.items()}
    chosen, read = [], []
    for fold in folds:
        train, val = ([known[each] for each in dataset.splits[fold][part]] for part in ("train", "val"))
        model = fitted(_stacked(features, train), _classes(train), [case.subject for case in train])
        values = np.zeros((len(val), len(classes)))  # a class without training cases has probability 0
        values[:, [classes.index(each) for each in model.classes_]] = model.predict_proba(
            _stacked(features, val)
        )
        folder = run / f"fold_{fold}"
        threshold = 0.5 if len(classes) == 2 else None
        found = Probabilities(classes, tuple(case.id for case in val), values, threshold, calibrated=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_probabilities(folder / "predictions.csv", found)
        evaluate_probabilities(folder / "predictions.csv", prepared, only_predicted=True, output=folder)
        read.append(read_evaluation(folder, f"{LOGISTIC}, fold {fold}"))
        chosen.append(f"{model.best_params_['logisticregression__C']:g}")
    whole = joined(read, LOGISTIC)
    right = [whole.values[unit, ALL, "accuracy"] for unit in whole.cases]
    people = [whole.subjects[unit] for unit in whole.cases]
    low, high = bootstrap_interval(right, people)
    return (
        f"accuracy {np.mean(right):.4f} ({low:.4f} to {high:.4f}) of {len(right)} cases of "
        f"{len(set(people))} subjects in folds {', '.join(map(str, folds))}; C = {', '.join(chosen)}"
    )


def against_networks(study: Study, dataset: str, output: Path) -> StudyRecord:
    """The scores of the logistic regression, and its paired tests against the networks of a study.

    Holm's correction of these tests is over the networks.

    Args:
        dataset: of the study.
        output: folder of the study; runs that are not finished are left out.
    """
    rows = trained_rows(study)
    cells = cells_of(study, rows, output)
    row = replace(rows[0], dataset=dataset, name=LOGISTIC)
    own = replace(cells[0], trained=row, seed=0, runs=output.parent / LOGISTIC)
    score_logistic(own.prepared, own.folds, own.root)
    scored, _ = read_cells([*cells, own])
    found = results_of(dataset, [*rows, row], scored, study.level, compare_with=LOGISTIC)
    return StudyRecord(
        study=study,
        runs=(),
        scores=tuple(score for score in found.scores if score.recipe == LOGISTIC),
        differences=found.differences,
    )


def _stacked(features: dict[str, NDArray[np.float64]], cases: Sequence[PreparedCase]) -> NDArray[np.float64]:
    return np.stack([features[case.id] for case in cases])


def _classes(cases: Sequence[PreparedCase]) -> list[str]:
    return [str(case.class_name) for case in cases]
