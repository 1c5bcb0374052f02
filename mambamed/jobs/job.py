"""One command over many cases: from models and inputs to a finished output folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mambamed.cases import Case
from mambamed.converters.accounting import account_of, files_of
from mambamed.converters.inputs import find_inputs
from mambamed.converters.prepared import cases_of_part
from mambamed.documents.account import Account
from mambamed.errors import CaseError, RecipeError
from mambamed.io.images import read_header
from mambamed.io.lock import reading
from mambamed.io.write_errors import check_space
from mambamed.jobs.answer import Answer
from mambamed.jobs.engine import run_cases
from mambamed.jobs.in_workers import ensemble_in_workers, run_in_workers
from mambamed.jobs.output import OutputFolder
from mambamed.jobs.record import Record
from mambamed.jobs.shard import chosen_shard
from mambamed.preparation.pool import Workers
from mambamed.progress import Progress, Silence
from mambamed.run.device import keep_freed_memory
from mambamed.terminal import command_line
from mambamed.volumes.ensemble import Ensemble, Serving, load_ensemble

Models = Sequence[Path] | Ensemble


@dataclass(frozen=True)
class JobOptions:
    """Which cases are done.

    Attributes:
        resume: has no effect: finished cases of the same input, models and settings are kept in any case.
        overwrite: do every case again, whatever the output folder holds.
        shard: do one part of the cases, e.g. "2/4", while other processes do the others in the same folder.
            Default: the rank in torchrun, a step of srun, or a job array.
        part: the input is a prepared dataset, and only its cases for "train", "val" or "test" are done; their
            images are those that it was prepared from.
        missing: what to do with cases that lack channels: "reject" them, or put a channel of "zero" in the
            place of each, for models that were trained with `augment.drop_channel`.
    """

    resume: bool = False
    overwrite: bool = False
    shard: str | None = None
    part: str | None = None
    missing: str = "reject"


@dataclass(frozen=True)
class JobResult:
    """What a command did.

    Attributes:
        cases: ids of the cases of this process that now have results.
        kept: how many of them had results before.
        faults: one line per case that could not be done.
        seconds: wall time.
        gathered: what `Answer.gather` returned.
        account: which files of the input were read.
        part: which part of the cases this process did; empty for all of them.
    """

    cases: tuple[str, ...]
    kept: int
    faults: tuple[str, ...]
    seconds: float
    gathered: Any
    account: Account
    part: str = ""


def evaluate_command(output: Path, inputs: Path, options: JobOptions, references: str = "REFERENCES") -> str:
    """The command that scores the output of a job; `references` are named if they are not known."""
    if options.part is None:
        return command_line("evaluate", output, references)
    return command_line("evaluate", output, inputs, "--part", options.part)


def run_job(
    answer_of: Callable[[Ensemble], Answer],
    place: OutputFolder,
    models: Models,
    inputs: Path,
    serving: Serving,
    options: JobOptions,
    progress: Progress | None,
    workers: Workers | None = None,
) -> JobResult:
    """Do every case of `inputs` that is not done yet, then write the tables over all cases.

    Args:
        answer_of: makes the answer of loaded models, or rejects them.
        place: where results are written; checked before models are loaded.
        models: run folders or model files, of which several are averaged; or what was loaded of them.
        inputs: an image, a folder of images or of case folders, or a list of cases.
        serving: how models are loaded and run.
        options: which cases are done.
        progress: optional callback that receives progress updates.
        workers: where the cases are done (default: in this process).

    Raises:
        MambamedError: nothing can be done at all: no images, no usable model, an option that cannot be used,
            an output folder of other models or settings, or in use by another process.
    """
    began = time.monotonic()
    progress = progress or Silence()
    places = [member.run.root for member in models.members] if isinstance(models, Ensemble) else models
    place.check([Path(inputs), *places], options.overwrite)
    if workers and place.only:
        raise RecipeError(
            f"-o {place.target}: one case is done in one process. Give a folder, or remove --on and --gpus."
        )
    if isinstance(models, Ensemble):
        ensemble, workers = models, None
    elif workers:
        ensemble = ensemble_in_workers(models, serving, workers)
    else:
        ensemble = load(models, serving)
    answer = answer_of(ensemble)
    for reason in ensemble.reasons:
        progress.say(reason)
    zeros = options.missing == "zero"
    if zeros:
        _check_dropped(ensemble)
    shard = chosen_shard(options.shard)
    channels = list(ensemble.run.manifest.channels)
    folds = list(dict.fromkeys(fold for member in ensemble.members for fold in member.folds))
    if options.part is None:
        found = find_inputs(Path(inputs), channels, incomplete=zeros)
        account = account_of(Path(inputs), files_of(found))
    else:
        found = cases_of_part(Path(inputs), options.part, folds, channels)
        account = Account(files_read=len(files_of(found)))
    if account.line:
        progress.say(f"{inputs}: {account.line}")
    if zeros:
        found = [replace(case, fault=None) if case.missing else case for case in found]
    whole = place.named(answer.accept(found, progress))
    cases, part = shard.cases(whole), shard.described(whole)
    if part:
        progress.say(part)
    place.check_cases(whole)
    with place.locked(shard, cases):
        settings = {**ensemble.described(), **answer.settings}
        names = {**answer.names, "account": account.to_json()}
        given = (cases, options.overwrite, shard, answer.covariates, names)
        record = Record(place, settings, ensemble.reasons, *given)
        missing = [c for c in cases if not (record.holds(c) and answer.is_complete(c, place.path))]
        for case in missing:
            if case.missing and case.fault is None:
                lacking = ", ".join(channels[k] for k in case.missing)
                progress.say(f"{case.id}: no file of the channel {lacking}: zeros in its place")
        _check_space(place, answer, missing)
        progress.start(answer.stage, len(missing), "cases")
        try:
            if workers and not isinstance(models, Ensemble):
                run_in_workers(answer, ensemble, models, serving, workers, missing, record, progress)
            else:
                run_cases(answer, ensemble, missing, record, progress)
        finally:
            record.flush()
        with place.tables_locked(shard), record.writing_tables():
            gathered = answer.gather(whole, record.finished(whole), place.path)
    return JobResult(
        cases=tuple(case.id for case in cases if case.id not in record.faults),
        kept=len(cases) - len(missing),
        faults=tuple(record.faults[case.id] for case in cases if case.id in record.faults),
        seconds=time.monotonic() - began,
        gathered=gathered,
        account=account,
        part=part,
    )


def load(models: Sequence[Path], serving: Serving) -> Ensemble:
    """Load models, for one job or for several."""
    keep_freed_memory()
    with reading(*map(Path, models)):
        return load_ensemble(models, serving)


def _check_dropped(ensemble: Ensemble) -> None:
    """Raise RecipeError for models that have never seen a channel of zeros."""
    for member in ensemble.members:
        augment, channels = member.run.recipe.training.augment, member.run.manifest.channels
        fact = ""
        if len(channels) == 1:
            fact = "reads one channel, which cannot be missing"
        elif not augment.drop_channel:
            fact = "was trained with training.augment.drop_channel 0: it has never seen a missing channel"
        if fact:
            raise RecipeError(
                f"--missing zero: {member.model} {fact}. Remove the option, or use another model."
            )


def _check_space(place: OutputFolder, answer: Answer, cases: Sequence[Case]) -> None:
    """Reject an output that the disk cannot hold, if all cases are as large as the first readable one."""
    for case in cases if answer.least_bytes_per_voxel else ():
        with suppress(CaseError, IndexError):  # the case reports its fault when it is read
            first = case.channels[0]
            voxels = math.prod(read_header(first.path, files=first.files).shape)
            needed = int(len(cases) * voxels * answer.least_bytes_per_voxel)
            check_space(place.path, needed, f"the files of {len(cases)} cases")
            return
