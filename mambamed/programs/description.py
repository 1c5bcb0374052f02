"""The description of a program: what mambamed does before and after the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mambamed.documents.ensemble import MaskPostprocess
from mambamed.documents.program import Classes, Masks, Points, Preparation, Program, Windows
from mambamed.documents.splits import FoldName
from mambamed.run.calibration import read_calibration
from mambamed.run.folder import Run
from mambamed.run.thresholds import read_thresholds
from mambamed.tasks.classification import Classification
from mambamed.tasks.landmarks import Landmarks
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.ensemble import windows_of


def described(run: Run, folds: Sequence[FoldName], **facts: Any) -> Program:
    """The description of a program of some folds of a run; `facts` are those of its files."""
    plan, task, recipe = run.plan, run.task, run.recipe
    windows = windows_of(run, None, None, torch.device("cpu"))
    answers: dict[str, Any] = {}
    if isinstance(task, Segmentation):
        answers["masks"] = Masks(
            labels=dict(run.manifest.labels),
            regions=dict(run.manifest.regions),
            decision="positive" if task.by_regions else "largest",
            values=tuple(task.values),
            order=tuple(task.order),
            postprocess=MaskPostprocess.of(recipe.inference.postprocess),
        )
    elif isinstance(task, Landmarks):
        answers["points"] = Points(
            names=task.names,
            reading=task.form.reading,
            method=task.form.method,
            sigma_voxels=task.form.sigma_voxels,
            offsets=task.form.offsets,
            thresholds=_thresholds(run, folds),
        )
    elif isinstance(task, Classification):
        calibration = read_calibration(run, folds[0])
        threshold = None if calibration is None else calibration.threshold
        if threshold is None and task.outputs == 2:
            threshold = 0.5
        temperature = None if calibration is None else calibration.temperature
        answers["classes"] = Classes(
            names=tuple(task.classes), temperature=temperature or 1.0, threshold=threshold
        )
    return Program(
        run=recipe.name,
        task=recipe.task,
        network=recipe.network.name,
        folds=tuple(folds),
        outputs=task.outputs,
        channels=dict(run.manifest.channels),
        preparation=Preparation(
            axes=plan.axes,
            crop=plan.crop,
            normalization=plan.normalization,
            keep_spacing=plan.keep_spacing,
            spacing_mm=plan.spacing_mm,
        ),
        windows=Windows(
            kind="centered" if isinstance(task, Classification) else "sliding",
            patch_size=windows.patch_size,
            overlap=windows.overlap,
            gaussian=windows.gaussian,
            mirror_axes=windows.mirror_axes,
            mirror_order=windows.mirror_order,
            like_nnunet=windows.like_nnunet,
        ),
        **answers,
        **facts,
    )


def _thresholds(run: Run, folds: Sequence[FoldName]) -> dict[str, float]:
    """The recipe's threshold, else the mean of those chosen on validation cases."""
    names, alike = run.manifest.landmarks, run.recipe.landmarks.threshold
    if alike is not None:
        return dict.fromkeys(names, alike)
    known = [found for fold in folds if (found := read_thresholds(run, fold)) is not None]
    return {name: sum(each[name] for each in known) / max(len(known), 1) for name in names}
