"""`landmarks`: images in, the points of every case out, in world mm and in voxels of its own file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mambamed.answers.base import BaseAnswer, check_task
from mambamed.answers.located import locate, write_located
from mambamed.cases import Case
from mambamed.documents.account import Account
from mambamed.documents.prediction import PointFile
from mambamed.errors import ModelError, RecipeError
from mambamed.io.images import Image
from mambamed.io.points import point_suffix, write_point_table, write_points
from mambamed.io.tables import write_csv
from mambamed.jobs.job import JobOptions, Models, evaluate_command, run_job
from mambamed.jobs.output import OutputFolder
from mambamed.jobs.read_case import Ready
from mambamed.preparation.pool import Workers
from mambamed.progress import Progress
from mambamed.recipe import Recipe
from mambamed.run.thresholds import read_thresholds
from mambamed.tasks.landmarks import Landmarks
from mambamed.volumes.ensemble import Ensemble, Serving
from mambamed.volumes.sliding_window import Slab

EXPORTS = ("mrk.json", "fcsv", "csv")
TABLE, MEASURES = "landmarks.csv", "measures.csv"


@dataclass(frozen=True)
class LandmarksSummary:
    """The result of `landmarks`; see `PredictSummary`.

    Attributes:
        absent: number of landmarks that were not found, over all finished cases of the input.
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    absent: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str
    account: Account | None = None
    part: str = ""


@dataclass(frozen=True)
class PointOptions:
    """Options of `landmarks`.

    Attributes:
        export: formats of further files per case: "mrk.json" and "fcsv" (3D Slicer), "csv".
        threshold: score below which a landmark is absent (default: from the recipe, else chosen on the
            validation cases).
        preview: also write `CASE_preview.png`.
    """

    export: tuple[str, ...] = ()
    threshold: float | None = None
    preview: bool = False

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.export if kind not in EXPORTS]:
            raise RecipeError(f"--export {unknown[0]}: is not among json, {', '.join(EXPORTS)}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise RecipeError(f"--threshold {self.threshold}: a score is from 0 to 1")


def landmarks(
    models: Models,
    inputs: Path,
    output: Path,
    serving: Serving,
    job: JobOptions,
    options: PointOptions,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> LandmarksSummary:
    """Detect the landmarks of every case; see `run_job`.

    `output` receives `CASE.json`, `landmarks.csv` and, if the recipe has measures, `measures.csv`, all in
    world mm, RAS+; and run.json, which records every finished case. If it is the name of a .json file, the
    points of the only case are written there, without tables, and their record next to them.

    Raises:
        RecipeError: `output` is the name of a file of another format.
    """

    def answer_of(ensemble: Ensemble) -> LandmarksAnswer:
        return replace(LandmarksAnswer.of(ensemble, options), tables=not place.only)

    suffixes = (".json", *(f".{kind}" for kind in options.export))
    place = OutputFolder(output, "folder of landmarks", suffixes, (TABLE, MEASURES))
    if (kind := point_suffix(output)) is not None and not output.is_dir():
        if kind != ".json" or not output.name.endswith(kind):
            raise RecipeError(
                f"-o {output}: points are written as .json. Give such a name, or a folder; other formats are "
                "written with --export."
            )
        place = OutputFolder.of_file(output, suffixes, ("_preview.png",))
    done = run_job(answer_of, place, models, inputs, serving, job, progress, workers)
    following = evaluate_command(output, inputs, job)
    return LandmarksSummary(
        output,
        done.cases,
        done.kept,
        done.gathered,
        done.faults,
        done.seconds,
        following,
        done.account,
        done.part,
    )


@dataclass(frozen=True)
class LandmarksAnswer(BaseAnswer):
    """Landmarks in world coordinates and in voxels of the file; see `Answer`.

    Attributes:
        thresholds: landmark -> score below which it is absent.
        channels: their names; previews show the first one that a case has.
        tables: whether the tables over all cases are written.
    """

    stage: ClassVar[str] = "placing landmarks"

    task: Landmarks
    recipe: Recipe
    thresholds: Mapping[str, float]
    options: PointOptions = PointOptions()
    channels: tuple[str, ...] = ()
    tables: bool = True

    @classmethod
    def of(cls, ensemble: Ensemble, options: PointOptions) -> LandmarksAnswer:
        """The answer for loaded models.

        Raises:
            ModelError: models of another task, or with different heatmaps.
        """
        check_task(ensemble, "landmarks")
        task, first = ensemble.task, ensemble.run
        assert isinstance(task, Landmarks)
        for member in ensemble.members[1:]:
            if member.run.recipe.landmarks != first.recipe.landmarks:
                raise ModelError(
                    f"{member.run.root}: its heatmaps differ from those of {first.root} (recipe: landmarks); "
                    "they cannot be averaged. Use one of the models."
                )
        thresholds = _thresholds(ensemble, options.threshold)
        return cls(task, first.recipe, thresholds, options, tuple(first.manifest.channels))

    @property
    def settings(self) -> dict[str, Any]:
        return {"thresholds": dict(self.thresholds)}

    @property
    def keeps_images(self) -> bool:
        return self.options.preview

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        if not any(self.thresholds.values()):
            progress.say("thresholds 0: every landmark is placed (none was missing in validation cases)")
        return list(cases)

    def write(self, ready: Ready, parts: Iterable[Slab], folder: Path) -> dict[str, Any]:
        located, case = locate(parts, ready.geometry, self.task), ready.case
        if self.options.preview and isinstance(ready.like, Image):
            from mambamed.report.point_pictures import draw_points

            placed = located.placed(self.thresholds)
            voxels = {n: v for n, v in zip(located.names, located.voxels, strict=True) if n in placed}
            image, channel = (ready.like.array, ready.like.affine), case.named(self.channels)[0]
            draw_points(_preview(case, folder), case.id, *image, voxels, located.names, channel)
        image = case.channels[0].path.name
        write_located(folder / f"{case.id}.json", located, self.thresholds, self.recipe, image)
        return {}

    def is_complete(self, case: Case, folder: Path) -> bool:
        return not self.options.preview or _preview(case, folder).is_file()

    def gather(self, cases: Sequence[Case], finished: Mapping[str, Mapping[str, Any]], folder: Path) -> int:
        """Write the tables and the exported files; returns the number of absent landmarks."""
        points: dict[str, dict[str, list[float]]] = {}
        scores: dict[str, dict[str, float]] = {}
        rows = []
        for case in cases:
            if case.id not in finished:
                continue
            document = PointFile.read(folder / f"{case.id}.json")
            nowhere = [float("nan")] * 3
            points[case.id] = {name: list(point or nowhere) for name, point in document.points.items()}
            scores[case.id] = document.scores
            for kind in self.options.export:
                write_points(folder / f"{case.id}.{kind}", points[case.id], scores[case.id])
            rows.append([case.id, *(measured.value for measured in document.measures.values())])
        if self.tables:
            write_point_table(folder / TABLE, points, scores)
        measures = self.recipe.measures
        if measures and self.tables:
            units = {key: "mm" if len(names) == 2 else "degrees" for key, names in measures.items()}
            write_csv(folder / MEASURES, ["case", *(f"{key}_{unit}" for key, unit in units.items())], rows)
        return sum(bool(np.isnan(place).any()) for found in points.values() for place in found.values())


def _preview(case: Case, folder: Path) -> Path:
    return folder / f"{case.id}_preview.png"


def _thresholds(ensemble: Ensemble, asked: float | None) -> dict[str, float]:
    """The given threshold, else the recipe's, else the mean of those chosen on validation cases."""
    names = ensemble.run.manifest.landmarks
    alike = ensemble.run.recipe.landmarks.threshold if asked is None else asked
    if alike is not None:
        return dict.fromkeys(names, alike)
    found = [read_thresholds(member.run, fold) for member in ensemble.members for fold in member.folds]
    known = [each for each in found if each is not None]
    return {name: sum(each[name] for each in known) / max(len(known), 1) for name in names}
