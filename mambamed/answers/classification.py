"""`classify`: images in, a table of class probabilities out, and where the networks looked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import mambamed
from mambamed.answers.covariate_table import read_covariates
from mambamed.answers.pipeline import Ready, read_case
from mambamed.answers.saliency import grad_cam, on_native_grid
from mambamed.cases import Case
from mambamed.converters.inputs import find_inputs
from mambamed.documents.run import Calibration
from mambamed.errors import CaseError, ModelError, RecipeError
from mambamed.io.images import Image, write_image
from mambamed.io.json_files import write_json
from mambamed.io.probabilities import Probabilities, names_probabilities, write_probabilities
from mambamed.jobs.record import sha256_of
from mambamed.metrics.calibration import softmax
from mambamed.progress import Progress, Silence
from mambamed.runs.calibration import read_calibration
from mambamed.runs.device import keep_freed_memory, memory_format
from mambamed.runs.provenance import provenance
from mambamed.tasks.classification import Classification, centered
from mambamed.tasks.covariates import covariate_numbers, is_known, with_covariates
from mambamed.volumes.class_logits import class_logits
from mambamed.volumes.ensemble import Ensemble, load_ensemble


@dataclass(frozen=True)
class ClassifySummary:
    """What `classify` did.

    Attributes:
        output: the table.
        probabilities: what is in it.
        saliency: folder of the maps; None where none were asked for.
        faults: one line for every case that could not be done.
        seconds: wall time.
        next_command: what to do next.
    """

    output: Path
    probabilities: Probabilities
    saliency: Path | None
    faults: tuple[str, ...]
    seconds: float
    next_command: str


@dataclass(frozen=True)
class _Judge:
    """The networks of an ensemble with what their validation cases taught."""

    ensemble: Ensemble
    networks: tuple[tuple[torch.nn.Module, tuple[int, ...], Calibration], ...]
    task: Classification
    threshold: float | None

    @property
    def calibrated(self) -> bool:
        return all(calibration.temperature is not None for _, _, calibration in self.networks)


def classify(
    models: Sequence[Path],
    inputs: Path,
    output: Path,
    *,
    threshold: float | None = None,
    covariates: Path | None = None,
    saliency: bool = False,
    folds: str = "all",
    checkpoint: str = "best",
    tta: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    progress: Progress | None = None,
) -> ClassifySummary:
    """Say which class every case is of, and how likely each is.

    The probabilities of all networks, folds and runs (of other seeds), are averaged, each scaled by its own
    temperature. The threshold of two classes is the mean of those chosen on the folds' validation cases.

    Args:
        models: run folders; several make an ensemble.
        inputs: as `find_inputs` takes them.
        output: a .csv file; `<output>.run.json` beside it says how it came about.
        threshold: of two classes: the positive one is answered from this probability on.
        covariates: table with a column `case` and one a covariate, for models that read some.
        saliency: also write `<output>_saliency/CASE.nii.gz`, on the grid of the case's file, and CASE.png:
            Grad-CAM of the class that is answered.
        folds, checkpoint, tta, device, precision: as in `load_ensemble`.
        progress: hears how far the work is.

    Raises:
        MambamedError: nothing can be classified at all: no images, no usable model, an unusable option.
    """
    began = time.monotonic()
    progress = progress or Silence()
    keep_freed_memory()
    ensemble = load_ensemble(
        models, folds=folds, checkpoint=checkpoint, tta=tta, device=device, precision=precision
    )
    judge = _judge(ensemble, threshold)
    for reason in ensemble.reasons:
        progress.say(reason)
    if not judge.calibrated:
        progress.say("not calibrated: too few validation cases, or the recipe does not ask for it")
    cases = find_inputs(Path(inputs), list(ensemble.run.manifest.channels))
    cases = _with_values(cases, ensemble, covariates, progress)
    _check_output(cases, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    maps = output.with_name(f"{output.stem}_saliency") if saliency else None
    progress.start("classifying", len(cases), "cases")
    values, facts, faults = _answers(judge, cases, maps, progress)
    probabilities = Probabilities(
        judge.task.classes,
        tuple(values),
        np.array([*values.values()]).reshape(len(values), judge.task.outputs),
        judge.threshold,
        judge.calibrated,
    )
    write_probabilities(output, probabilities)
    write_json(output.with_suffix(".run.json"), _document(judge, models, checkpoint, facts))
    return ClassifySummary(
        output,
        probabilities,
        maps,
        faults,
        time.monotonic() - began,
        f"mambamed evaluate {output} CLASSES.csv",
    )


def _judge(ensemble: Ensemble, threshold: float | None) -> _Judge:
    """Refuse what is no classifier; take temperatures and thresholds from the folds."""
    task = ensemble.task
    if not isinstance(task, Classification):
        verb = {"labels": "predict", "points": "landmarks"}[task.reads]
        raise ModelError(f"{ensemble.run.root}: is no classifier; use 'mambamed {verb}'")
    if threshold is not None and task.outputs != 2:
        raise RecipeError(f"--threshold: {task.outputs} classes have none; the most probable is answered")
    if threshold is not None and not 0 <= threshold <= 1:
        raise RecipeError(f"--threshold {threshold}: a probability is from 0 to 1")
    networks = []
    for member in ensemble.members:
        for fold, network in zip(member.folds, member.networks, strict=True):
            calibration = read_calibration(member.run, fold) or Calibration()
            networks.append((network, tuple(member.windows.mirror_axes), calibration))
    chosen = [c.threshold for _, _, c in networks if c.threshold is not None]
    if task.outputs != 2:
        line = None
    elif threshold is not None:
        line = threshold
    else:
        line = sum(chosen) / len(chosen) if chosen else 0.5
    return _Judge(ensemble, tuple(networks), task, line)


def _with_values(
    cases: Sequence[Case], ensemble: Ensemble, table: Path | None, progress: Progress
) -> list[Case]:
    """The cases with their covariates, from the table where one is given."""
    names = ensemble.run.recipe.dataset.covariates
    if table is not None and not names:
        raise RecipeError(f"--covariates {table}: the model reads none; leave it out")
    if table is not None:
        known = read_covariates(table, list(names))
        cases = [replace(case, covariates={**case.covariates, **known.get(case.id, {})}) for case in cases]
    for name in names:
        without = [case.id for case in cases if not is_known(case.covariates.get(name))]
        if without:
            progress.say(f"{name}: not known of {len(without)} cases ({without[0]} ...): taken as average")
    return list(cases)


def _answers(
    judge: _Judge, cases: Sequence[Case], maps: Path | None, progress: Progress
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any], tuple[str, ...]]:
    """Probabilities by case, what is to be recorded of each, faults."""
    values: dict[str, NDArray[np.float64]] = {}
    facts: dict[str, Any] = {}
    faults: list[str] = []
    for case, reading in _read_ahead(judge.ensemble, cases, maps is not None):
        try:
            ready = reading.result()
            began = time.monotonic()
            values[case.id] = _probabilities(judge, ready, maps)
            seconds = round(ready.seconds + time.monotonic() - began, 3)
            facts[case.id] = {"status": "done", "seconds": seconds, "warnings": [*ready.warnings]}
        except CaseError as error:
            faults.append(f"{case.id}: {error}")
            facts[case.id] = {"status": "failed", "fault": str(error)}
        progress.advance(1, case=case.id)
    return values, facts, tuple(faults)


def _read_ahead(
    ensemble: Ensemble, cases: Sequence[Case], whole: bool
) -> Iterator[tuple[Case, Future[Ready]]]:
    """The cases; while one is worked on, the next is read."""
    with ThreadPoolExecutor(1, "reader") as reader:
        ahead: Future[Ready] | None = None
        for number, case in enumerate(cases):
            reading = ahead or reader.submit(read_case, case, ensemble, whole)
            following = cases[number + 1 : number + 2]
            ahead = reader.submit(read_case, following[0], ensemble, whole) if following else None
            yield case, reading


def _probabilities(judge: _Judge, ready: Ready, maps: Path | None) -> NDArray[np.float64]:
    """`(K,)` of one case, and its map where one is wanted."""
    ensemble, run = judge.ensemble, judge.ensemble.run
    layout = memory_format(ensemble.device, ensemble.precision)
    numbers = covariate_numbers(ready.case.covariates, run.recipe.dataset.covariates, ready.case.id)
    total = np.zeros(judge.task.outputs)
    patches = []
    for member in ensemble.members:
        patch = with_covariates(centered(ready.array, member.run.plan.patch_size), numbers)
        patches += [torch.from_numpy(patch)] * len(member.networks)
    for (network, axes, calibration), patch in zip(judge.networks, patches, strict=True):
        logits = class_logits(
            network, patch[None], axes, device=ensemble.device, precision=ensemble.precision, layout=layout
        )
        if not bool(torch.isfinite(logits).all()):
            raise CaseError(f"{ready.case.channels[0].path}: the network answers NaN; use --precision fp32")
        total += softmax(logits[0].double().numpy() / (calibration.temperature or 1.0))
    mean = total / len(judge.networks)
    if maps is not None:
        _write_map(judge, ready, patches, mean, maps)
    return mean


def _write_map(
    judge: _Judge, ready: Ready, patches: Sequence[torch.Tensor], values: NDArray[np.float64], maps: Path
) -> None:
    """Mean of the networks' maps of the class that is answered."""
    from mambamed.report.saliency import draw_saliency

    task, case = judge.task, ready.case
    one = Probabilities(task.classes, (case.id,), values[None], judge.threshold, judge.calibrated)
    label = one.labels[0]
    total = np.zeros(ready.geometry.shape_native, np.float32)
    for (network, _, _), patch in zip(judge.networks, patches, strict=True):
        cam = grad_cam(network, patch.to(judge.ensemble.device), task.classes.index(label))
        total += on_native_grid(cam, ready.geometry, patch.shape[1:])
    total /= len(judge.networks)
    maps.mkdir(exist_ok=True)
    write_image(maps / f"{case.id}.nii.gz", total, like=ready.like)
    if isinstance(ready.like, Image):
        title = f"{case.id}: {label} {values[task.classes.index(label)]:.2f}"
        draw_saliency(maps / f"{case.id}.png", title, ready.like.array, ready.like.affine, total)


def _document(
    judge: _Judge, models: Sequence[Path], checkpoint: str, cases: dict[str, Any]
) -> dict[str, Any]:
    members = []
    for model, member in zip(models, judge.ensemble.members, strict=True):
        files = {fold: member.run.checkpoint(fold, checkpoint) for fold in member.folds}
        members.append(
            {
                "run": Path(model).resolve().name,
                "seed": member.run.recipe.training.seed,
                "checkpoints": {f"fold_{fold}": sha256_of(path) for fold, path in files.items()},
            }
        )
    return {
        "version": mambamed.__version__,
        **provenance(),
        "members": members,
        "temperatures": [calibration.temperature for _, _, calibration in judge.networks],
        "threshold": judge.threshold,
        "reasons": list(judge.ensemble.reasons),
        "cases": cases,
    }


def _check_output(cases: Sequence[Case], output: Path) -> None:
    if output.suffix.lower() != ".csv" or output.is_dir():
        raise RecipeError(f"-o {output}: give the name of a table, e.g. preds.csv")
    if output.exists() and not names_probabilities(output):
        raise RecipeError(f"{output}: was there before and is no table of probabilities; give another -o")
    if output.resolve() in {channel.path.resolve() for case in cases for channel in case.channels}:
        raise RecipeError(f"{output}: is an image to be classified; give another -o")
