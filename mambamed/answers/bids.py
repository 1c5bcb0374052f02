"""`bids`: a BIDS App. A model runs on the images of a BIDS dataset, and its results become BIDS derivatives.

The results of each session are first made by `predict`, `landmarks` or `classify` in a folder of their own,
`OUT/.mambamed/LABEL/sub-01_ses-1`, so that an interrupted command continues, and so that several processes
can each do other participants in the same output folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.answers.bids_derivatives import DESCRIPTION, Derivatives, label_of, sidecar_of
from mambamed.answers.classification import ClassifySummary, ClassOptions, classify
from mambamed.answers.landmarks import LandmarksSummary, PointOptions, landmarks
from mambamed.answers.mask_files import MaskOptions
from mambamed.answers.segmentation import PredictSummary, predict
from mambamed.cases import IGNORE
from mambamed.converters.bids_inputs import BidsImage, BidsSession, find_sessions, pairs_of, patterns_of
from mambamed.documents.foreign.bids import Column, SourceDescription
from mambamed.documents.prediction import PointFile
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.lock import waiting_lock
from mambamed.io.ownership import Output
from mambamed.io.probabilities import PREFIX
from mambamed.io.tables import write_csv
from mambamed.jobs.job import JobOptions, load
from mambamed.progress import Progress, Silence
from mambamed.run.folder import Run
from mambamed.volumes.ensemble import Ensemble, Serving

_KIND, _WORK, _TABLE = "folder of BIDS derivatives", ".mambamed", "classes.csv"


@dataclass(frozen=True)
class BidsOptions:
    """Which images are read, and how the derivatives are called.

    Attributes:
        participants, sessions: labels (default: all).
        filter: entities by which images are chosen, e.g. "run=1".
        channels: channel -> pattern, e.g. "T1=T1w" (default: by the names of the channels).
        label: names the files (default: the recipe's name).
        skip_validation: read datasets without a valid dataset_description.json.
    """

    participants: Sequence[str] | None = None
    sessions: Sequence[str] | None = None
    filter: str | None = None
    channels: str | None = None
    label: str | None = None
    skip_validation: bool = False


@dataclass(frozen=True)
class BidsSummary:
    """The result of `bids`.

    Attributes:
        output: the folder of the derivatives.
        cases: sessions that now have results, e.g. sub-01_ses-1.
        kept: number of these that had results before.
        channels: channel of the model -> suffix and entities of its images.
        faults: one line per session that failed.
        seconds: wall time.
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    channels: dict[str, str]
    faults: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Chosen:
    """A session that can be done, and the images of the channels that it has."""

    session: BidsSession
    images: Mapping[str, BidsImage]
    file: str  # of the result, relative to the output


@dataclass
class _Whole(Silence):
    """Progress over all sessions, each of which is a job of its own; repeated messages are said once."""

    progress: Progress
    said: set[str] = field(default_factory=set)

    def advance(self, count: int = 1, **facts: str | float) -> None:
        self.progress.advance(count, **facts)

    def say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            self.progress.say(line)


def run_bids(
    models: Sequence[Path],
    source: Path,
    output: Path,
    serving: Serving,
    job: JobOptions,
    options: BidsOptions,
    progress: Progress | None = None,
) -> BidsSummary:
    """Run models on every chosen session; see `bids_derivatives` for the files.

    Raises:
        DatasetError: the dataset, a label or a channel is not there.
        RecipeError: the output is somebody else's, or an option is wrong.
    """
    began, progress = time.monotonic(), progress or Silence()
    described = _described(source, options.skip_validation)
    wanted, given = pairs_of(options.filter, "--filter"), pairs_of(options.channels, "--channels")
    sessions = find_sessions(source, options.participants, options.sessions)
    place = Output(output, _KIND, [source], overwrite=True)  # what people changed is looked at below
    ledger = place.check()
    ensemble = load(models, serving)
    recipe, manifest = ensemble.run.recipe, ensemble.run.manifest
    patterns = patterns_of(manifest.channels, given, sessions, source)
    shown = {channel: str(pattern) for channel, pattern in patterns.items()}
    progress.say("channels: " + ", ".join(f"{channel} = {text}" for channel, text in shown.items()))
    label = label_of(options.label or recipe.name)
    folds = ", ".join(map(str, ensemble.members[0].folds))
    made_by = f"mambamed {ensemble.task.verb}, model {recipe.name}, folds {folds}"
    to = Derivatives(source, output, label, made_by)
    faults, chosen = [], []
    for session in sessions:
        choice = session.chosen(patterns, wanted)
        images = choice.images
        if choice.fault and not (choice.only_missing and job.missing == "zero"):
            faults.append(choice.fault)
            continue
        name = to.file(session, [*images.values()], recipe.task)
        if any(map(ledger.is_changed, (name, sidecar_of(name)))) and not job.overwrite:
            fact = "was changed after mambamed wrote it"
            faults.append(f"{session.name}: {output / name}: {fact}. Move it, or give --overwrite.")
            continue
        if _columns_of(ensemble):
            to.check_tables(session)
        chosen.append(_Chosen(session, images, name))
    common = to.files_of_dataset(recipe.task)
    if not job.overwrite and (changed := next(filter(ledger.is_changed, common), None)):
        raise RecipeError(f"{output / changed}: was changed after mambamed wrote it. Move it elsewhere.")
    place.check([*common, *(name for each in chosen for name in (each.file, sidecar_of(each.file)))])
    with waiting_lock(output):
        ledger = place.begin()
        to.describe(described)
        if names := _labels_of(ensemble):
            to.write_labels(names)
    whole, done, kept = _Whole(progress), list[str](), 0
    progress.start(f"{ensemble.task.verb}, {source.name}", len(chosen), "sessions")
    try:
        for each in chosen:
            result = _do(each, to, ensemble, job, whole)
            progress.advance(result.kept)
            kept += result.kept
            done += [] if result.faults else [each.session.name]
            faults += result.faults
    finally:
        with waiting_lock(output):
            ledger.add_digests(to.written)
    return BidsSummary(output, tuple(done), kept, shown, tuple(faults), time.monotonic() - began)


def _described(source: Path, skip: bool) -> SourceDescription | None:
    """The description of the dataset; None if it is not read."""
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder. Check the path.")
    if skip:
        return None
    if not (source / DESCRIPTION).is_file():
        raise DatasetError(
            f"{source}: is not a BIDS dataset: no {DESCRIPTION}. Add it, or use --skip-bids-validation."
        )
    return SourceDescription.read(source / DESCRIPTION)


def _do(
    chosen: _Chosen, to: Derivatives, ensemble: Ensemble, job: JobOptions, progress: Progress
) -> PredictSummary | LandmarksSummary | ClassifySummary:
    """Do a session, in its own folder, and write its derivative."""
    name, images = chosen.session.name, [*chosen.images.values()]
    folder = to.root / _WORK / to.label / name
    listed = folder.with_suffix(".csv")
    _write_list(listed, chosen, ensemble.run)
    recipe, columns = ensemble.run.recipe, _columns_of(ensemble)
    values: dict[str, float | str | None] = {}
    if recipe.task == "segmentation":
        done = predict(ensemble, listed, folder, Serving(), job, MaskOptions(), progress)
        if not done.faults:
            to.write_mask(chosen.file, folder / f"{name}.nii.gz", images)
    elif recipe.task == "landmarks":
        done = landmarks(ensemble, listed, folder, Serving(), job, PointOptions(), progress)
        if not done.faults:
            points = PointFile.read(folder / f"{name}.json")
            to.write_landmarks(chosen.file, points, images)
            measured = (points.measures[key].value for key in recipe.measures)
            values = dict(zip(columns, measured, strict=True))
    else:
        with Output(folder, "folder of classes").locked():
            done = classify(ensemble, listed, folder / _TABLE, Serving(), job, ClassOptions(), progress)
        if not done.faults:
            (label,), (row,) = done.probabilities.labels, done.probabilities.values.tolist()
            to.write_class(
                chosen.file, label, dict(zip(done.probabilities.classes, row, strict=True)), images
            )
            values = dict(zip(columns, [label, *row], strict=True))
    if values:
        with waiting_lock(to.root):
            to.add_columns(chosen.session, values, columns)
    return done


def _labels_of(ensemble: Ensemble) -> dict[str, int]:
    """Name -> value in the masks; those of landmarks count from 1."""
    manifest = ensemble.run.manifest
    if manifest.landmarks:
        return {name: value for value, name in enumerate(manifest.landmarks, start=1)}
    return {name: value for name, value in manifest.labels.items() if value and name != IGNORE}


def _columns_of(ensemble: Ensemble) -> dict[str, Column]:
    """Column of the tables of participants or sessions -> what it holds."""
    recipe, classes = ensemble.run.recipe, ensemble.run.manifest.classes
    if recipe.task == "classification":
        levels = {name: f"Class {name}." for name in classes}
        return {"class": Column(Description="The predicted class.", Levels=levels)} | {
            f"{PREFIX}{name}": Column(Description=f"Probability of {name}, 0 to 1.") for name in classes
        }
    columns = {}
    for name, points in recipe.measures.items() if recipe.task == "landmarks" else ():
        kind, unit = ("Distance", "mm") if len(points) == 2 else ("Angle", "degrees")
        columns[f"{name}_{unit}"] = Column(Description=f"{kind} of {', '.join(points)}.", Units=unit)
    return columns


def _write_list(path: Path, chosen: _Chosen, run: Run) -> None:
    """Write the list of cases, with one row, that the job reads."""
    session, channels = chosen.session, run.manifest.channels
    known = {name.lower(): cell for name, cell in session.covariates.items()}
    covariates = [*run.recipe.dataset.covariates]
    # not resolved: the target of a link, e.g. of DataLad, may have a name without .nii.gz
    files = [chosen.images[name].path.absolute() if name in chosen.images else "" for name in channels]
    row = [session.name, session.subject, *files, *(known.get(name.lower(), "") for name in covariates)]
    write_csv(path, ["case", "subject", *channels, *covariates], [row])
