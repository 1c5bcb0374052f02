"""Out-of-fold predictions: every validation case as the network of its fold predicts it, for several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mambamed.answers.mask_files import MaskOptions
from mambamed.answers.segmentation import predict
from mambamed.documents.prepared import PreparedIndex
from mambamed.documents.splits import NO_FOLD, cases_of, splits_of
from mambamed.errors import ModelError, RecipeError
from mambamed.io.images import Image, read_image
from mambamed.jobs.job import JobOptions
from mambamed.progress import Progress
from mambamed.run.folder import Run
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.ensemble import Serving, check_same_question

_SMALLEST = 2.0**-25  # half of the smallest float16 above 0


@dataclass(frozen=True)
class HeldOutCase:
    """A validation case.

    Attributes:
        logits: `(runs, K, X, Y, Z)` of the networks of its fold, up to a constant per voxel.
    """

    logits: NDArray[np.float32]
    reference: Image


@dataclass(frozen=True)
class HeldOut:
    """The predictions of several runs for the same validation cases.

    Attributes:
        fold_of: case -> fold in which it is a validation case.
        subjects: case -> subject.
        folders: one per run: fold -> folder of its predictions.
    """

    runs: tuple[Run, ...]
    prepared: Path
    folds: tuple[int, ...]
    fold_of: Mapping[str, int]
    subjects: Mapping[str, str]
    folders: tuple[Mapping[int, Path], ...]

    @property
    def task(self) -> Segmentation:
        """Of all runs."""
        return cast(Segmentation, self.runs[0].task)

    def read(self, case: str) -> HeldOutCase:
        """Predictions and reference of a case."""
        fold, each = self.fold_of[case], []
        for folders in self.folders:
            with np.load(folders[fold] / f"{case}_probabilities.npz", allow_pickle=False) as file:
                chances = file["probabilities"].astype(np.float32)
            logits = np.log(np.maximum(chances, _SMALLEST))
            if self.task.by_regions:
                logits -= np.log(np.maximum(1 - chances, _SMALLEST))
            each.append(logits)
        return HeldOutCase(np.stack(each), read_image(self.prepared / "references" / f"{case}.nii.gz"))


def predict_held_out(
    models: Sequence[Path],
    output: Path,
    data: Path | None,
    device: str,
    common: bool,
    progress: Progress,
) -> HeldOut:
    """Predict the validation cases of every fold of every run; finished cases are kept.

    Raises:
        ModelError: not runs of segmentation with validation cases, or they cannot be averaged.
        RecipeError: runs of different folds, and not `common`.
    """
    runs = tuple(Run.open(model) for model in models)
    for run in runs:
        if run.recipe.task != "segmentation":
            raise ModelError(
                f"{run.root}: is a {run.recipe.task} run. Use 'mambamed compare' for its evaluations."
            )
    for run in runs[1:]:
        check_same_question(runs[0], run)
    folds = [{fold for fold in run.folds if fold != NO_FOLD} for run in runs]
    shared = set.intersection(*folds)
    if not shared:
        raise ModelError("best: the runs have no fold with validation cases in common. Train the same folds.")
    if not common and any(each != shared for each in folds):
        listed = "; ".join(
            f"{run.root}: {sorted(map(str, each))}" for run, each in zip(runs, folds, strict=True)
        )
        raise RecipeError(
            f"best: the runs have different folds ({listed}). Train the others, or use --common."
        )
    chosen = tuple(sorted(int(fold) for fold in shared))
    prepared = data or _prepared_of(runs[0], chosen[0])
    index = PreparedIndex.read(prepared / "dataset.json")
    splits = splits_of(prepared, index)
    if unknown := [fold for fold in chosen if fold >= len(splits)]:
        raise RecipeError(f"best: {prepared} has no fold {unknown[0]}. Give the dataset of the runs with -d.")
    fold_of = {case: fold for fold in chosen for case in cases_of(splits, fold)["val"]}
    folders: list[dict[int, Path]] = []
    for number, model in enumerate(models):
        places = {fold: output / "predictions" / f"run_{number}_fold_{fold}" for fold in chosen}
        for fold, place in places.items():
            progress.say(f"{model}: fold {fold} predicts its validation cases -> {place}")
            serving = Serving(folds=str(fold), device=device)
            options = MaskOptions(probabilities=True)
            done = predict([model], prepared, place, serving, JobOptions(part="val"), options, progress)
            if done.faults:
                raise RecipeError("\n".join(done.faults))
        folders.append(places)
    subjects = {case.id: case.subject for case in index.cases}
    return HeldOut(runs, prepared, chosen, dict(sorted(fold_of.items())), subjects, tuple(folders))


def _prepared_of(run: Run, fold: int) -> Path:
    known = run.recorded(fold).get("prepared")
    if known is None or not Path(known).is_dir():
        raise RecipeError(f"{run.root}: its prepared dataset is not at {known}. Give it with -d.")
    return Path(known)
