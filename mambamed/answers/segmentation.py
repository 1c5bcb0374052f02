"""`predict`: images in, one mask per case out, on the grid of the case's own file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mambamed.answers.base import BaseAnswer, check_task
from mambamed.answers.mask_files import MaskOptions, probability_file, statistics, write_mask
from mambamed.answers.postprocess import check_names, postprocess
from mambamed.cases import Case
from mambamed.documents.account import Account
from mambamed.documents.manifest import DatasetManifest
from mambamed.io.dicom_seg import check_dicom_output
from mambamed.io.json_files import write_json
from mambamed.jobs.job import JobOptions, evaluate_command, run_job
from mambamed.jobs.read_case import Ready
from mambamed.progress import Progress
from mambamed.recipe.schema import Postprocess
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.ensemble import Ensemble, Serving
from mambamed.volumes.restore import labels_of_slabs
from mambamed.volumes.sliding_window import Slab

# Compressed size as a fraction of the bytes in memory; files are larger than this.
_LEAST_OF_MASKS, _LEAST_OF_PROBABILITIES = 0.001, 0.02


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
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str
    account: Account | None = None


def predict(
    models: Sequence[Path],
    inputs: Path,
    output: Path,
    serving: Serving = Serving(),  # noqa: B008 - frozen
    job: JobOptions = JobOptions(),  # noqa: B008 - frozen
    options: MaskOptions = MaskOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment every case; see `run_job`.

    `output` receives `CASE.nii.gz` and run.json, which records every finished case. If it is the name of a
    mask, the mask of the only case is written there, and its record next to it.
    """
    place, options = options.place(output)

    def answer_of(ensemble: Ensemble) -> SegmentationAnswer:
        return SegmentationAnswer.of(ensemble, options)

    done = run_job(answer_of, place, models, inputs, serving, job, progress)
    following = evaluate_command(output, inputs, job)
    numbers = (done.cases, done.kept, done.faults, done.seconds)
    return PredictSummary(place.target, *numbers, following, done.account)


@dataclass(frozen=True)
class SegmentationAnswer(BaseAnswer):
    """Masks on the grid of the input file; see `Answer`."""

    stage: ClassVar[str] = "predicting"

    task: Segmentation
    manifest: DatasetManifest
    postprocessing: Postprocess = field(default_factory=Postprocess)
    options: MaskOptions = field(default_factory=MaskOptions)

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
        check_names(run.recipe.inference.postprocess, run.manifest)
        return cls(task, run.manifest, run.recipe.inference.postprocess, options)

    @property
    def settings(self) -> dict[str, Any]:
        return {"postprocess": self.postprocessing.model_dump(mode="json"), "format": self.options.format}

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
        return _LEAST_OF_MASKS + probabilities

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        if self.options.format in {"dicom-seg", "rtstruct"}:
            check_dicom_output(cases, self.options.format)
        return list(cases)

    def write(self, ready: Ready, parts: Iterable[Slab], folder: Path) -> dict[str, Any]:
        case = ready.case
        files = self.options.further_files(case, folder)
        if "probabilities" in files:
            with probability_file(files["probabilities"], self.task, ready.geometry) as values:
                labels = labels_of_slabs(parts, ready.geometry, self.task, values)
        else:
            labels = labels_of_slabs(parts, ready.geometry, self.task)
        affine = ready.like.affine
        voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
        postprocess(labels, self.postprocessing, self.manifest, voxel_mm3)
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
        return {}

    def is_complete(self, case: Case, folder: Path) -> bool:
        return all(path.is_file() for path in self.options.further_files(case, folder).values())
