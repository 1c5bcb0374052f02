"""`classify`: images in, a table of class probabilities out, and saliency maps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from mambamed.answers.base import BaseAnswer, check_task
from mambamed.answers.saliency import METHODS, Cam, on_native_grid
from mambamed.cases import Case
from mambamed.documents.account import Account
from mambamed.documents.agreement import spelled_alike
from mambamed.documents.run import Calibration
from mambamed.errors import CaseError, DatasetError, RecipeError
from mambamed.io.case_columns import EXPECTED, CaseColumns
from mambamed.io.images import Image, write_image
from mambamed.io.ledger import foreign_file
from mambamed.io.ownership import Output
from mambamed.io.probabilities import Probabilities, names_probabilities, write_probabilities
from mambamed.io.tables import read_csv
from mambamed.jobs.job import JobOptions, Models, evaluate_command, run_job
from mambamed.jobs.output import OutputFolder
from mambamed.jobs.read_case import Ready
from mambamed.memory import check_ram
from mambamed.metrics.calibration import fit_temperature, softmax
from mambamed.metrics.classification import choose_threshold
from mambamed.preparation.pool import Workers
from mambamed.progress import Progress
from mambamed.recipe import Evaluation, Recipe
from mambamed.run.calibration import read_calibration
from mambamed.run.device import memory_format
from mambamed.schema_errors import some_of
from mambamed.tasks.classification import Classification, centered
from mambamed.tasks.covariates import covariate_numbers, with_covariates
from mambamed.tasks.covariates_found import is_known
from mambamed.volumes.ensemble import Ensemble, Serving
from mambamed.volumes.forward import class_logits


@dataclass(frozen=True)
class ClassifySummary:
    """The result of `classify`; see `PredictSummary`.

    Attributes:
        output: the table.
        probabilities: the rows of the table.
        saliency: folder of the saliency maps; None if they were not requested.
    """

    output: Path
    probabilities: Probabilities
    saliency: Path | None
    kept: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str
    account: Account | None = None
    part: str = ""


@dataclass(frozen=True)
class ClassOptions:
    """Options of `classify`.

    Attributes:
        threshold: for two classes: the second (positive) one is predicted if its probability is at least
            this (default: the mean of those chosen on the folds' validation cases).
        covariates: table with a column `case` and one column per covariate.
        saliency: also write a map of what speaks for the predicted class: `<output>_saliency/CASE.nii.gz` on
            the grid of the input file, and CASE.png; `<output>_saliency_METHOD` for another than the default
            method.
        saliency_method: one of `METHODS`.
    """

    threshold: float | None = None
    covariates: Path | None = None
    saliency: bool = False
    saliency_method: str = "gradients"

    def maps(self, output: Path) -> Path:
        """The folder of the maps for a table."""
        method = "" if self.saliency_method == next(iter(METHODS)) else f"_{self.saliency_method}"
        return output.with_name(f"{output.stem}_saliency{method}")


def classify(
    models: Models,
    inputs: Path,
    output: Path,
    serving: Serving,
    job: JobOptions,
    options: ClassOptions,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> ClassifySummary:
    """Classify every case; see `run_job`.

    The probabilities of all networks are averaged, each scaled by its own temperature. `output` is a .csv
    file, made from `<output>.run.json`, which records the probabilities of each finished case.
    """

    def answer_of(ensemble: Ensemble) -> ClassificationAnswer:
        return ClassificationAnswer.of(ensemble, output, options)

    if output.suffix.lower() != ".csv" or output.is_dir():
        raise RecipeError(f"-o {output}: expected the name of a table, e.g. preds.csv. Give another -o.")
    if output.exists() and not names_probabilities(output):
        raise RecipeError(f"{output}: already exists and is not a table of probabilities. Give another -o.")
    if options.saliency_method not in METHODS:
        raise RecipeError(f"--saliency-method {options.saliency_method}: expected {' or '.join(METHODS)}.")
    if options.saliency and options.maps(output).is_symlink():
        raise foreign_file(options.maps(output))
    if options.saliency:
        _maps_folder(options.maps(output)).check()
    place = OutputFolder(output.parent, "", (), (output.name,), f"{output.stem}.run")
    done = run_job(answer_of, place, models, inputs, serving, job, progress, workers)
    maps = options.maps(output) if options.saliency else None
    following = evaluate_command(output, inputs, job, "CLASSES.csv")
    numbers = (done.kept, done.faults, done.seconds)
    return ClassifySummary(output, done.gathered, maps, *numbers, following, done.account, done.part)


# The result of a case: `(K,)` probabilities, and per network its map and patch size.
ClassResult = tuple[NDArray[np.float64], list[tuple[Cam, tuple[int, ...]]]]


@dataclass(frozen=True)
class ClassificationAnswer(BaseAnswer):
    """Class probabilities; see `Answer`.

    Attributes:
        output: the table.
        calibrations: one per network, in the order of members and folds.
        seeds: one per member.
        threshold: for two classes: probability from which the second one is predicted.
        channels: their names; pictures of saliency maps show the first one that a case has.
        ranges: covariate -> smallest and largest value in the dataset of the first model, if known.
    """

    stage: ClassVar[str] = "classifying"

    task: Classification
    recipe: Recipe
    output: Path
    calibrations: tuple[Calibration, ...]
    seeds: tuple[int, ...]
    threshold: float | None
    options: ClassOptions = ClassOptions()
    channels: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, ensemble: Ensemble, output: Path, options: ClassOptions) -> ClassificationAnswer:
        """The answer for loaded models, with the temperatures and thresholds of their folds.

        Raises:
            ModelError: models of another task.
            RecipeError: an option that cannot be used.
        """
        check_task(ensemble, "classification")
        task, threshold = ensemble.task, options.threshold
        assert isinstance(task, Classification)
        if threshold is not None and task.outputs != 2:
            raise RecipeError(
                f"--threshold: applies to two classes, and the model has {task.outputs}. Remove the option."
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise RecipeError(f"--threshold {threshold}: a probability is from 0 to 1")
        calibrations = tuple(
            read_calibration(member.run, fold) or Calibration()
            for member in ensemble.members
            for fold in member.folds
        )
        chosen = [c.threshold for c in calibrations if c.threshold is not None]
        if task.outputs == 2 and threshold is None:
            threshold = sum(chosen) / len(chosen) if chosen else 0.5
        return cls(
            task,
            ensemble.run.recipe,
            output,
            calibrations,
            tuple(member.run.recipe.training.seed for member in ensemble.members),
            threshold,
            options,
            tuple(ensemble.run.manifest.channels),
            ensemble.run.manifest.covariate_ranges,
        )

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities of all networks were calibrated."""
        return all(each.temperature is not None for each in self.calibrations)

    @property
    def settings(self) -> dict[str, Any]:
        temperatures = [each.temperature for each in self.calibrations]
        return {"seeds": list(self.seeds), "temperatures": temperatures, "threshold": self.threshold}

    @property
    def covariates(self) -> tuple[str, ...]:
        return tuple(self.recipe.dataset.covariates)

    @property
    def keeps_images(self) -> bool:
        return self.options.saliency

    def accept(self, cases: Sequence[Case], progress: Progress) -> list[Case]:
        """Add the covariates of the table, if one is given."""
        if not self.calibrated:
            threshold = "" if self.threshold is None else f"; threshold {self.threshold:g}"
            progress.say(
                "not calibrated: no or too few validation cases, or the recipe does not ask for it"
                + threshold
            )
        if self.options.saliency:
            self.options.maps(self.output).mkdir(parents=True, exist_ok=True)
            _maps_folder(self.options.maps(self.output)).begin()
        names, table = self.covariates, self.options.covariates
        if table is not None and not names:
            raise RecipeError(f"--covariates {table}: the model has no covariates. Remove the option.")
        if table is not None:
            known, note = _read_covariates(table, names, [case.id for case in cases])
            of_person = [c.id for c in cases if c.id not in known and c.subject in known]
            if note:
                progress.say(f"{table}: {note}")
            if of_person:
                progress.say(f"{table}: read by person for {len(of_person)} cases ({of_person[0]} ...)")
            found = {c.id: known.get(c.id, known.get(c.subject, {})) for c in cases}
            cases = [replace(c, covariates={**c.covariates, **found[c.id]}) for c in cases]
        cases = [replace(c, covariates={**c.covariates, **_respelled(c.covariates, names)}) for c in cases]
        for name in names:
            without = [case.id for case in cases if not is_known(case.covariates.get(name))]
            if without:
                progress.say(f"{name}: missing for {len(without)} cases ({without[0]} ...): the mean is used")
            if line := _far_outside(name, cases, self.ranges.get(name)):
                progress.say(f"warning: {line}")
        return list(cases)

    def work(self, ready: Ready, ensemble: Ensemble, progress: Progress) -> Iterator[ClassResult]:
        layout = memory_format(ensemble.device, ensemble.precision)
        numbers = covariate_numbers(ready.case.covariates, self.recipe.dataset.covariates, ready.case.id)
        networks, patches = [], []
        for member in ensemble.members:
            patch = with_covariates(centered(ready.array, member.run.plan.patch_size), numbers)
            check_ram(2 * patch.nbytes, ensemble.max_ram, "input and output of the network need")
            networks += [(network, member.windows) for network in member.networks]
            patches += [torch.from_numpy(patch)] * len(member.networks)
        total = np.zeros(self.task.outputs)
        for (network, windows), calibration, patch in zip(networks, self.calibrations, patches, strict=True):
            logits = class_logits(
                network,
                patch[None],
                windows.mirror_axes,
                windows.mirror_order,
                device=ensemble.device,
                precision=ensemble.precision,
                layout=layout,
            )
            if not bool(torch.isfinite(logits).all()):
                path = ready.case.channels[0].path
                raise CaseError(f"{path}: the output of the network is NaN. Use --precision fp32.")
            total += softmax(logits[0].double().numpy() / (calibration.temperature or 1.0))
        mean = total / len(networks)
        maps = []
        if self.options.saliency:
            shown = self.task.classes.index(self._label(ready.case, mean))
            method = METHODS[self.options.saliency_method]
            for (network, _), patch in zip(networks, patches, strict=True):
                maps.append((method(network, patch.to(ensemble.device), shown), tuple(patch.shape[1:])))
        yield mean, maps

    def write(self, ready: Ready, parts: Iterable[ClassResult], folder: Path) -> dict[str, Any]:
        ((values, maps),) = parts
        if maps:
            self._write_map(ready, values, maps)
        return {"probabilities": values.tolist()}

    def is_complete(self, case: Case, folder: Path) -> bool:
        if not self.options.saliency:
            return True
        return all(
            (self.options.maps(self.output) / f"{case.id}{end}").is_file() for end in (".nii.gz", ".png")
        )

    def gather(
        self, cases: Sequence[Case], finished: Mapping[str, Mapping[str, Any]], folder: Path
    ) -> Probabilities:
        """Write the table from the record."""
        known = {case.id: finished[case.id]["probabilities"] for case in cases if case.id in finished}
        probabilities = self._probabilities(known)
        write_probabilities(self.output, probabilities)
        return probabilities

    def _probabilities(self, values: Mapping[str, Sequence[float] | NDArray[np.float64]]) -> Probabilities:
        rows = np.array([*values.values()], float).reshape(len(values), self.task.outputs)
        return Probabilities(self.task.classes, tuple(values), rows, self.threshold, self.calibrated)

    def _label(self, case: Case, values: NDArray[np.float64]) -> str:
        return self._probabilities({case.id: values}).labels[0]

    def _write_map(
        self, ready: Ready, values: NDArray[np.float64], maps: Sequence[tuple[Cam, tuple[int, ...]]]
    ) -> None:
        """Write the mean of the networks' maps."""
        from mambamed.report.saliency import draw_saliency

        case, label, folder = ready.case, self._label(ready.case, values), self.options.maps(self.output)
        total = np.zeros(ready.geometry.shape_native, np.float32)
        for cam, size in maps:
            total += on_native_grid(cam, ready.geometry, size)
        total /= len(maps)
        write_image(folder / f"{case.id}.nii.gz", total, like=ready.like)
        if isinstance(ready.like, Image):
            title = f"{case.id}: {label} {values[self.task.classes.index(label)]:.2f}"
            image = ready.like.array, ready.like.affine
            draw_saliency(folder / f"{case.id}.png", title, *image, total, case.named(self.channels)[0])


def _far_outside(name: str, cases: Sequence[Case], known: tuple[float, float] | None) -> str | None:
    """A line about cases whose number is farther from the training range than this is wide."""
    if known is None:
        return None
    low, high = known
    margin = high - low or max(abs(low), 1.0)
    far = []
    for case in cases:
        text = case.covariates.get(name)
        with suppress(ValueError):  # a fault of the case, which is reported when it is read
            if is_known(text) and not low - margin <= float(text or "") <= high + margin:
                far.append(f"{case.id}: {text}")
    if not far:
        return None
    place = f"far outside the training range, {low:g} to {high:g}"
    return f"{name} is {place}: {some_of(far)}. Check the unit; the probabilities have no basis there"


def _respelled(covariates: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The covariates that the model reads, under its names."""
    return {name: covariates[column] for name, column in spelled_alike(names, covariates).items()}


def _maps_folder(maps: Path) -> Output:
    return Output(maps, "folder of saliency maps")


def _read_covariates(
    path: Path, names: Sequence[str], ids: Collection[str]
) -> tuple[dict[str, dict[str, str]], str]:
    """Case id -> covariate -> text, from a CSV or TSV with columns of cases, and how these were understood.

    Raises:
        DatasetError: no such column, no column of any covariate, or a duplicate case.
    """
    headers, rows = read_csv(path)
    columns = CaseColumns.of(headers)
    there = spelled_alike(names, headers)
    if columns is None or not there:
        lacking = EXPECTED if columns is None else " or ".join(names)
        raise DatasetError(f"{path}: no column {lacking}; its columns are {', '.join(headers)}")
    named_by = [case for case, _ in columns.identify(rows, ids)]
    if fault := columns.twice(path, named_by):
        raise DatasetError(fault)
    found = {
        case: {name: row[column] for name, column in there.items()}
        for case, row in zip(named_by, rows, strict=True)
    }
    return found, columns.note


def calibrated(logits: NDArray[np.float64], truth: NDArray[np.integer], settings: Evaluation) -> Calibration:
    """Choose temperature and threshold on validation cases: `(n, K)` logits and `(n,)` class indices."""
    temperature = fit_temperature(logits, truth) if settings.calibrate else None
    threshold = None
    if logits.shape[1] == 2:
        positive = softmax(logits / (temperature or 1.0))[:, 1]
        threshold = 0.5
        if settings.threshold != "half":
            threshold = choose_threshold(truth, positive, settings.threshold)
    return Calibration(
        temperature=temperature, threshold=threshold, criterion=settings.threshold, cases=len(truth)
    )
