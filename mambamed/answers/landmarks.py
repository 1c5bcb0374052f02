"""`landmarks`: images in, the points of every case out, in world mm and in voxels of its own file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.answers.pipeline import Ready, read_case
from mambamed.cases import Case
from mambamed.converters.inputs import find_inputs
from mambamed.errors import CaseError, ModelError, RecipeError
from mambamed.geometry import voxel_to_world, world_to_voxel
from mambamed.io.images import Image
from mambamed.io.json_files import read_json, write_json
from mambamed.io.lock import folder_lock
from mambamed.io.points import write_point_table, write_points
from mambamed.io.tables import write_csv
from mambamed.jobs.record import NAME, Record, sha256_of
from mambamed.metrics.measures import measure
from mambamed.preparation.grid import CaseGeometry
from mambamed.progress import Progress, Silence
from mambamed.recipe import Recipe
from mambamed.runs.device import keep_freed_memory
from mambamed.runs.thresholds import read_thresholds
from mambamed.tasks.landmarks import Landmarks
from mambamed.tasks.peaks import PeakFinder
from mambamed.volumes.ensemble import Ensemble, load_ensemble
from mambamed.volumes.sliding_window import Slab

EXPORTS = ("mrk.json", "fcsv", "csv")
TABLE, MEASURES = "landmarks.csv", "measures.csv"


@dataclass(frozen=True)
class LandmarksSummary:
    """What `landmarks` did.

    Attributes:
        output: the folder of the points.
        cases: ids of the cases that now have points.
        kept: how many of them were there already.
        absent: landmarks that were found nowhere, over all cases.
        faults: one line for every case that could not be done.
        seconds: wall time.
        next_command: what to do next.
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    absent: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str


@dataclass(frozen=True)
class Located:
    """The landmarks of a case.

    Attributes:
        names: of the landmarks.
        world: `(K, 3)` mm, RAS+; where each would be, also of those that are absent.
        voxels: the same in voxels of the case's own file, not rounded.
        scores: `(K,)` from 0 to 1: how sure it is that a landmark is there.
    """

    names: tuple[str, ...]
    world: NDArray[np.float64]
    voxels: NDArray[np.float64]
    scores: NDArray[np.float64]

    def placed(self, thresholds: Mapping[str, float]) -> tuple[str, ...]:
        """The landmarks whose score reaches the threshold."""
        return tuple(n for n, score in zip(self.names, self.scores, strict=True) if score >= thresholds[n])


def landmarks(
    models: Sequence[Path],
    inputs: Path,
    output: Path,
    *,
    export: Sequence[str] = (),
    threshold: float | None = None,
    folds: str = "all",
    checkpoint: str = "best",
    overlap: float | None = None,
    tta: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    progress: Progress | None = None,
) -> LandmarksSummary:
    """Place the landmarks of every case.

    Args:
        models: run folders; several make an ensemble.
        inputs: an image, a folder of images, or a folder of case folders.
        output: receives `CASE.json`, `landmarks.csv` and, where the recipe measures, `measures.csv`, all in
            world mm, RAS+; and run.json, which records every finished case. A case of the same input, models
            and settings that is recorded and unchanged is kept.
        export: also write these kinds: "mrk.json" and "fcsv" of every case, for 3D Slicer; "csv" of every
            case.
        threshold: score below which a landmark counts as absent; for each what the validation cases taught
            where not given.
        folds, checkpoint, overlap, tta, device, precision: as in `load_ensemble`.
        resume: says that kept cases are expected; that is done without it as well.
        overwrite: do every case again, whatever the folder holds.
        preview: also write `CASE_preview.png`.
        progress: hears how far the work is.

    Raises:
        MambamedError: nothing can be done at all: no images, no usable model, an unusable option.
    """
    began = time.monotonic()
    progress = progress or Silence()
    keep_freed_memory()
    export = [kind for kind in export if kind != "json"]  # is written in any case
    if strange := [kind for kind in export if kind not in EXPORTS]:
        raise RecipeError(f"--export {strange[0]}: is not among json, {', '.join(EXPORTS)}")
    ensemble = load_ensemble(
        models,
        folds=folds,
        checkpoint=checkpoint,
        overlap=overlap,
        tta=tta,
        device=device,
        precision=precision,
    )
    _check_models(ensemble)
    thresholds = _thresholds(ensemble, threshold)
    for reason in ensemble.reasons:
        progress.say(reason)
    cases = find_inputs(Path(inputs), list(ensemble.run.manifest.channels))
    _check_output(cases, output)
    with folder_lock(output):
        settings = _settings(ensemble, models, checkpoint, thresholds)
        record = Record(output, settings, ensemble.reasons, cases, overwrite, suffix=".json")
        wanted = [case for case in cases if not (record.holds(case) and _pictured(case, output, preview))]
        progress.start("placing landmarks", len(wanted), "cases")
        _place_all(ensemble, wanted, record, thresholds, preview, progress)
        done = [case for case in cases if case.id not in record.faults]
        absent = _write_tables(ensemble.run.recipe, done, output, export)
    return LandmarksSummary(
        output=output,
        cases=tuple(case.id for case in done),
        kept=len(cases) - len(wanted),
        absent=absent,
        faults=tuple(record.faults.values()),
        seconds=time.monotonic() - began,
        next_command=f"mambamed evaluate {output} REFERENCES",
    )


def locate(slabs: Iterable[Slab], geometry: CaseGeometry, task: Landmarks) -> Located:
    """Logits of a volume, slab after slab -> its points.

    Args:
        slabs: in order, without gaps.
        geometry: where the prepared grid lies in the case's file.
        task: what the logits mean.

    Raises:
        ValueError: no slabs.
    """
    finder: PeakFinder | None = None
    for slab in slabs:
        finder = finder or PeakFinder(task.form, slab.axis)
        finder.take(slab.planes.numpy())
    if finder is None:
        raise ValueError("no slabs: there is no volume")
    prepared, scores = finder.found()
    world = voxel_to_world(geometry.affine_prepared, prepared)
    return Located(task.names, world, world_to_voxel(np.array(geometry.affine_native), world), scores)


def write_located(
    path: Path, located: Located, thresholds: Mapping[str, float], recipe: Recipe, image: str
) -> None:
    """Write the points of a case as JSON, atomically; `io.points.read_points` reads it.

    Args:
        path: a .json file.
        located: from `locate`.
        thresholds: landmark -> score; one of a lower score is absent: null.
        recipe: what is measured between landmarks.
        image: name of the file that `voxels` are of.
    """
    points: dict[str, list[float] | None] = {}
    voxels: dict[str, list[float] | None] = {}
    placed = located.placed(thresholds)
    for name, world, voxel in zip(located.names, located.world, located.voxels, strict=True):
        here = name in placed
        points[name] = [round(float(v), 4) for v in world] if here else None
        voxels[name] = [round(float(v), 4) for v in voxel] if here else None
    document: dict[str, Any] = {
        "coordinate_system": "RAS",
        "unit": "mm",
        "image": image,
        "points": points,
        "voxels": voxels,
        "scores": {name: round(float(s), 6) for name, s in zip(located.names, located.scores, strict=True)},
        "thresholds": {name: thresholds[name] for name in located.names},
    }
    if recipe.measures:
        document["measures"] = _measures(recipe, points)
    write_json(path, document)


def _measures(recipe: Recipe, points: dict[str, list[float] | None]) -> dict[str, dict[str, Any]]:
    there = {name: point for name, point in points.items() if point is not None}
    found = {key: measure(there, names) for key, names in recipe.measures.items()}
    return {
        key: {"value": None if np.isnan(each.value) else round(each.value, 4), "unit": each.unit}
        for key, each in found.items()
    }


def _place_all(
    ensemble: Ensemble,
    cases: Sequence[Case],
    record: Record,
    thresholds: Mapping[str, float],
    preview: bool,
    progress: Progress,
) -> None:
    """Write the points of every case, and tell the record; one case is read ahead."""
    with ThreadPoolExecutor(1, "reader") as reader:
        ahead: Future[Ready] | None = None
        for number, case in enumerate(cases):
            outcome = _outcome(ahead or reader.submit(read_case, case, ensemble, preview))
            following = cases[number + 1 : number + 2]
            ahead = reader.submit(read_case, following[0], ensemble, preview) if following else None
            if isinstance(outcome, Ready):
                outcome = _place(ensemble, outcome, record, thresholds, preview, progress)
            if outcome is not None:
                record.failed(case, outcome)
            progress.advance(1, case=case.id)


def _outcome(reading: Future[Ready]) -> Ready | CaseError:
    try:
        return reading.result()
    except CaseError as error:
        return error


def _place(
    ensemble: Ensemble,
    ready: Ready,
    record: Record,
    thresholds: Mapping[str, float],
    preview: bool,
    progress: Progress,
) -> CaseError | None:
    """Write the points of a case; or why it could not be done."""
    began, case, task = time.monotonic(), ready.case, ensemble.task
    assert isinstance(task, Landmarks)

    def told(done: int, total: int) -> None:
        progress.advance(0, case=case.id, windows=f"{done}/{total}")

    try:
        located = locate(ensemble.slabs(ready.array, told, progress.say), ready.geometry, task)
    except CaseError as error:
        return error
    recipe, path = ensemble.run.recipe, record.mask(case)
    if preview and isinstance(ready.like, Image):
        from mambamed.report.point_pictures import draw_points

        placed = located.placed(thresholds)
        draw_points(
            path.with_name(f"{case.id}_preview.png"),
            case.id,
            ready.like.array,
            ready.like.affine,
            {name: v for name, v in zip(located.names, located.voxels, strict=True) if name in placed},
        )
    write_located(path, located, thresholds, recipe, case.channels[0].path.name)
    record.done(case, ready.seconds + time.monotonic() - began, ready.warnings)
    return None


def _write_tables(recipe: Recipe, cases: Sequence[Case], output: Path, export: Sequence[str]) -> int:
    """Tables of all cases and the exports of each, from the documents; how many landmarks are absent."""
    points: dict[str, dict[str, list[float]]] = {}
    scores: dict[str, dict[str, float]] = {}
    rows = []
    for case in cases:
        document = read_json(output / f"{case.id}.json")
        nowhere = [float("nan")] * 3
        points[case.id] = {name: point or nowhere for name, point in document["points"].items()}
        scores[case.id] = document["scores"]
        for kind in export:
            write_points(output / f"{case.id}.{kind}", points[case.id], scores[case.id])
        measured = document.get("measures", {})
        rows.append([case.id, *(measured[key]["value"] for key in measured)])
    write_point_table(output / TABLE, points, scores)
    if recipe.measures:
        units = {key: "mm" if len(names) == 2 else "degrees" for key, names in recipe.measures.items()}
        write_csv(output / MEASURES, ["case", *(f"{key}_{unit}" for key, unit in units.items())], rows)
    return sum(bool(np.isnan(place).any()) for found in points.values() for place in found.values())


def _check_models(ensemble: Ensemble) -> None:
    """Refuse what places no landmarks, and heatmaps that cannot be averaged."""
    task = ensemble.task
    if not isinstance(task, Landmarks):
        verb = {"labels": "predict", "class": "classify"}[task.reads]
        raise ModelError(f"{ensemble.run.root}: places no landmarks; use 'mambamed {verb}'")
    first = ensemble.run.recipe.landmarks
    for member in ensemble.members[1:]:
        if member.run.recipe.landmarks != first:
            raise ModelError(
                f"{member.run.root}: its heatmaps are not those of {ensemble.run.root} (recipe: landmarks); "
                "they cannot be averaged"
            )


def _thresholds(ensemble: Ensemble, asked: float | None) -> dict[str, float]:
    """What is asked for, else the recipe's, else the means of what the folds' validation cases taught."""
    if asked is not None and not 0 <= asked <= 1:
        raise RecipeError(f"--threshold {asked}: a score is from 0 to 1")
    names = ensemble.run.manifest.landmarks
    alike = ensemble.run.recipe.landmarks.threshold if asked is None else asked
    if alike is not None:
        return dict.fromkeys(names, alike)
    known = [read_thresholds(member.run, fold) or {} for member in ensemble.members for fold in member.folds]
    return {name: sum(each.get(name, 0.0) for each in known) / max(len(known), 1) for name in names}


def _settings(
    ensemble: Ensemble, models: Sequence[Path], checkpoint: str, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """What decides the points beside the input."""
    members = []
    for model, member in zip(models, ensemble.members, strict=True):
        files = {fold: member.run.checkpoint(fold, checkpoint) for fold in member.folds}
        members.append(
            {
                "run": Path(model).resolve().name,
                "checkpoints": {f"fold_{fold}": sha256_of(path) for fold, path in files.items()},
                "overlap": member.windows.overlap,
                "gaussian": member.windows.gaussian,
                "mirror_axes": list(member.windows.mirror_axes),
                "patch_size": list(member.windows.patch_size),
            }
        )
    return {
        "members": members,
        "thresholds": dict(thresholds),
        "device": ensemble.device.type,
        "precision": ensemble.precision,
    }


def _pictured(case: Case, output: Path, preview: bool) -> bool:
    return not preview or (output / f"{case.id}_preview.png").is_file()


def _check_output(cases: Sequence[Case], output: Path) -> None:
    """Refuse case ids whose files would be those that the folder needs for itself."""
    own = {Path(name).stem for name in (NAME, TABLE, MEASURES)}
    for case in cases:
        if case.id in own:
            raise RecipeError(
                f"{case.channels[0].path}: a case named {case.id} would overwrite the folder's own table; "
                "rename it"
            )
    if output.is_file():
        raise RecipeError(f"-o {output}: is a file; give a folder")
