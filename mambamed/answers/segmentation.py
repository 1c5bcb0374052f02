"""`predict`: images in, one mask per case out, on the grid of the case's own file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mambamed.answers.base import BaseAnswer, check_task
from mambamed.answers.label_tables import write_label_tables
from mambamed.answers.mask_calibration import ensemble_temperature
from mambamed.answers.mask_files import (
    UNCERTAINTY,
    MaskOptions,
    probability_file,
    scratch_array,
    statistics,
    write_mask,
)
from mambamed.answers.postprocess import check_names, postprocess
from mambamed.cases import Case
from mambamed.documents.account import Account
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import ModelError
from mambamed.io.dicom_seg import check_dicom_output
from mambamed.io.images import write_image
from mambamed.io.json_files import write_json
from mambamed.io.tables import write_csv
from mambamed.jobs.job import JobOptions, Models, evaluate_command, run_job
from mambamed.jobs.read_case import Ready
from mambamed.preparation.pool import Workers
from mambamed.progress import Progress
from mambamed.recipe.schema import Postprocess
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.ensemble import Ensemble, Serving
from mambamed.volumes.restore import VoxelValues, labels_of_slabs, probability_values
from mambamed.volumes.sliding_window import Slab
from mambamed.volumes.uncertainty import LogPartition, UncertaintyArrays, uncertainty_of

# Compressed size as a fraction of the bytes in memory; files are larger than this.
_LEAST_OF_MASKS, _LEAST_OF_PROBABILITIES, _LEAST_OF_MAPS = 0.001, 0.02, 0.02


@dataclass(frozen=True)
class PredictSummary:
    """The result of `predict`.

    Attributes:
        output: folder of the masks, or the only mask.
        cases: ids of the cases that now have a mask.
        kept: number of these cases that had one before.
        faults: one line per case that failed.
        seconds: wall time.
        account: which files of the input were read.
        part: which part of the cases this process did, e.g. "part 1 of 4: 37 of 148 cases"; or empty.
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str
    account: Account | None = None
    part: str = ""


def predict(
    models: Models,
    inputs: Path,
    output: Path,
    serving: Serving = Serving(),  # noqa: B008 - frozen
    job: JobOptions = JobOptions(),  # noqa: B008 - frozen
    options: MaskOptions = MaskOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> PredictSummary:
    """Segment every case; see `run_job`.

    `output` receives `CASE.nii.gz` and run.json, which records every finished case. If it is the name of a
    mask, the mask of the only case is written there, and its record next to it.
    """
    place, options = options.place(output)

    def answer_of(ensemble: Ensemble) -> SegmentationAnswer:
        return SegmentationAnswer.of(ensemble, options)

    done = run_job(answer_of, place, models, inputs, serving, job, progress, workers)
    following = evaluate_command(output, inputs, job)
    numbers = (done.cases, done.kept, done.faults, done.seconds)
    return PredictSummary(place.target, *numbers, following, done.account, done.part)


@dataclass(frozen=True)
class SegmentationAnswer(BaseAnswer):
    """Masks on the grid of the input file; see `Answer`."""

    stage: ClassVar[str] = "predicting"

    task: Segmentation
    manifest: DatasetManifest
    postprocessing: Postprocess = field(default_factory=Postprocess)
    options: MaskOptions = field(default_factory=MaskOptions)
    temperature: tuple[float, str] = (1.0, "")  # of the uncertainty, and where it is from
    tables: bool = False  # whether the table over all cases is written
    thresholds: Mapping[str, float] = field(default_factory=dict)  # region -> probability, if not 0.5

    @classmethod
    def of(cls, ensemble: Ensemble, options: MaskOptions) -> SegmentationAnswer:
        """The answer for loaded models.

        Raises:
            ModelError: models of another task.
            RecipeError: postprocessing of an unknown name.
        """
        check_task(ensemble, "segmentation")
        task, run = ensemble.task, ensemble.run
        assert isinstance(task, Segmentation)
        file = ensemble.file
        settings = run.recipe.inference.postprocess
        if file is not None:
            settings = Postprocess.model_validate(file.postprocess.to_json())
            if unknown := [name for name in file.thresholds if name not in run.manifest.regions]:
                raise ModelError(
                    f"thresholds: {unknown[0]} is no region of the models. Run 'mambamed best' again."
                )
        check_names(settings, run.manifest)
        temperature = ensemble_temperature(ensemble) if options.uncertainty else (1.0, "")
        tables = options.uncertainty and not options.ending
        thresholds = {} if file is None else file.thresholds
        return cls(task, run.manifest, settings, options, temperature, tables, thresholds)

    @property
    def settings(self) -> dict[str, Any]:
        calibrated = {"temperature": self.temperature[0]} if self.options.uncertainty else {}
        postprocess = self.postprocessing.model_dump(mode="json")
        decided = {"thresholds": dict(self.thresholds)} if self.thresholds else {}
        return {"postprocess": postprocess, "format": self.options.format, **calibrated, **decided}

    @property
    def names(self) -> dict[str, Any]:
        regions = {name: list(members) for name, members in self.manifest.regions.items()}
        return {"labels": dict(self.manifest.labels), **({"regions": regions} if regions else {})}

    @property
    def keeps_images(self) -> bool:
        return self.options.preview or self.options.statistics

    @property
    def least_bytes_per_voxel(self) -> float:
        probabilities = 2 * self.task.outputs * _LEAST_OF_PROBABILITIES if self.options.probabilities else 0.0
        maps = 2 * 4 * _LEAST_OF_MAPS if self.options.uncertainty else 0.0
        return _LEAST_OF_MASKS + probabilities + maps

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        if self.options.format in {"dicom-seg", "rtstruct"}:
            check_dicom_output(cases, self.options.format)
        if self.options.uncertainty:
            progress.say(self.temperature[1])
        return list(cases)

    def work(self, ready: Ready, ensemble: Ensemble, progress: Progress) -> Iterator[Slab]:
        if self.options.uncertainty:
            ensemble = replace(ensemble, also=LogPartition(self.temperature[0], bool(self.task.by_regions)))
        elif not self.options.probabilities:
            ensemble = replace(ensemble, resident=True)  # only labels are needed here
        return ensemble.slabs_of_case(ready.case.id, ready.array, progress)

    def write(self, ready: Ready, parts: Iterable[Slab], folder: Path) -> dict[str, Any]:
        case = ready.case
        files = self.options.further_files(case, folder)
        affine, results = ready.like.affine, {}
        with ExitStack() as held:
            values: list[VoxelValues] = []
            if (path := files.get("probabilities")) is not None:
                arrays = held.enter_context(probability_file(path, self.task, ready.geometry))
                values.append(probability_values(self.task, [*arrays]))
            maps = self._maps(held, files["entropy"], ready) if self.options.uncertainty else None
            if maps is not None:
                values.append(maps.values(self.task, self.temperature[0]))
            labels = labels_of_slabs(parts, ready.geometry, self.task, values, self.thresholds)
            voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
            postprocess(labels, self.postprocessing, self.manifest, voxel_mm3)
            if maps is not None:
                results = self._uncertainty(maps, labels, files, ready)
        if "statistics" in files:
            images = dict(zip(case.named(self.manifest.channels), ready.images, strict=True))
            write_json(files["statistics"], statistics(labels, images, affine, self.manifest))
        if "preview" in files:
            from mambamed.report.pictures import PicturedCase, draw_cases

            image = ready.images[0]
            channel = case.named(self.manifest.channels)[0]
            pictured = PicturedCase(case.id, image.array, image.affine, prediction=labels, channel=channel)
            draw_cases(files["preview"], [pictured], self.manifest.labels)
        mask = folder / f"{case.id}{self.options.suffix}"
        write_mask(mask, labels, ready.like, case, self.manifest, self.options.format)
        return results

    def _maps(self, held: ExitStack, path: Path, ready: Ready) -> UncertaintyArrays:
        """Arrays to be filled, kept on the disk as long as `held`."""
        shape = ready.geometry.shape_native
        chances = held.enter_context(scratch_array(path, (self.task.outputs, *shape), np.float16))
        entropy, disagreement = (held.enter_context(scratch_array(path, shape, np.float32)) for _ in range(2))
        return UncertaintyArrays(chances, entropy, disagreement)

    def _uncertainty(
        self, maps: UncertaintyArrays, labels: np.ndarray, files: Mapping[str, Path], ready: Ready
    ) -> dict[str, Any]:
        """Write the maps; the numbers of each structure, for the record."""
        write_image(files["entropy"], np.asarray(maps.entropy), like=ready.like)
        write_image(files["disagreement"], np.asarray(maps.disagreement), like=ready.like)
        members = [self.manifest.foreground[name] for name in self.task.names]
        numbers = uncertainty_of(maps, labels, self.task, members)
        return {"uncertainty": dict(zip(self.task.names, numbers, strict=True))}

    def gather(self, cases: Sequence[Case], finished: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """Write the names and colors of the labels, and the uncertainty of all cases as a table."""
        if self.options.format == "nifti":
            stem = f"{cases[0].id}_" if self.options.ending else ""
            write_label_tables(folder, self.manifest.labels, stem)
        if not self.tables:
            return
        columns = ("expected_dice", "entropy", "disagreement")
        rows = [
            [case.id, name, *(numbers[column] for column in columns)]
            for case in cases
            if case.id in finished
            for name, numbers in finished[case.id]["uncertainty"].items()
        ]
        write_csv(folder / UNCERTAINTY, ["case", "structure", *columns], rows)

    def is_complete(self, case: Case, folder: Path) -> bool:
        return all(path.is_file() for path in self.options.further_files(case, folder).values())
