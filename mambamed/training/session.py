"""Training and validation of one fold of a run in this process."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mambamed.batches.loader import Batch, PatchReader
from mambamed.batches.sampler import PatchSource, Sampler
from mambamed.documents.splits import NO_FOLD, FoldName, cases_of
from mambamed.errors import RecipeError
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.device import peak_memory
from mambamed.run.folder import Run
from mambamed.run.model import input_channels, make_network
from mambamed.run.provenance import provenance
from mambamed.run.shallow import make_shallow_safe
from mambamed.run.workplace import Workplace
from mambamed.tasks.cases import PatchCase
from mambamed.tasks.covariates import WithCovariates
from mambamed.training.augmenting import choose_augment
from mambamed.training.compiling import choose_compile
from mambamed.training.deterministic import keep_threads
from mambamed.training.journal import Journal, SilentJournal
from mambamed.training.limit import TimeLimit
from mambamed.training.loop import Loop, Patches, stream_of
from mambamed.training.optimize import WeightAverage, make_optimizer
from mambamed.training.ranks import Ranks, ShareOfSampler
from mambamed.training.schedule import Pace, window_count
from mambamed.training.state import Counters, TrainingState
from mambamed.training.stopping import StopRequests
from mambamed.training.trackers import open_trackers
from mambamed.training.transfer import load_initial_weights
from mambamed.training.validate import VolumeScores, read_scores, validate_volumes
from mambamed.training.validation_patches import ValidationPatches

_VALIDATION_STREAM = 10**6  # in the key of patches, where training has the number of roll-backs


@dataclass(frozen=True)
class FoldSummary:
    """One trained fold.

    Attributes:
        fold: its index.
        folder: its results.
        steps: taken; `planned_steps` of these.
        seconds: of training, in all sessions; of CPU time under --max-cpu-minutes.
        patch_score: mean on validation patches of the checkpoint `best`; NaN without validation cases.
        score_name: metric of `scores`, e.g. "dice".
        score_title: the same for people, e.g. "Dice".
        scores: name -> mean over the whole validation volumes; empty if they were not scored.
        stopped: why the fold ended before its schedule did, or None.
    """

    fold: FoldName
    folder: Path
    steps: int
    planned_steps: int
    seconds: float
    patch_score: float
    score_name: str
    score_title: str
    scores: dict[str, float]
    stopped: str | None


@dataclass(frozen=True)
class TrainOptions:
    """Options that apply to every fold, in addition to the recipe.

    Attributes:
        resume: whether to continue an earlier training.
        init_from: run folder with the initial weights.
        init_strict: whether all of these weights must match.
        deterministic: whether to keep the number of threads of the fold's first session.
        log: names of trackers that receive the training curves.
        notes: lines about the recipe, for the log.
    """

    resume: bool = False
    init_from: Path | None = None
    init_strict: bool = False
    deterministic: bool = False
    log: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def already_trained(run: Run, fold: FoldName) -> RecipeError:
    """The error for a fold that would be trained again from the start; says how far it is."""
    facts = read_checkpoint(run.checkpoint(fold, "last"), parts=()).facts
    if run.is_finished(fold) or "counters" not in facts:
        fact, goes_on = "already contains a trained model", "Use --resume to continue"
    else:
        fact, goes_on = progress_of(Counters(**facts["counters"])), "--resume continues"
    return RecipeError(f"{run.fold_folder(fold)}: {fact}. {goes_on}, or a different -o to start over.")


def progress_of(counters: Counters) -> str:
    """How far a training is that has been stopped.

    >>> progress_of(Counters(step=21, steps=6000)), progress_of(Counters(step=6000, steps=6000))
    ('stopped at step 21 of 6000', 'trained 6000 of 6000 steps, stopped before the end of the validation')
    """
    if counters.step < counters.steps:
        return f"stopped at step {counters.step} of {counters.steps}"
    return f"trained {counters.step} of {counters.steps} steps, stopped before the end of the validation"


class Session:
    """Training of one fold in this process: sets up network and data, runs the loop, validates.

    Args:
        run: recipe, plan, folders.
        dataset: the prepared cases.
        fold: index of the fold.
        place: where to compute.
        progress: optional callback that receives progress updates.
        ranks: this process among those that train together.
    """

    def __init__(
        self,
        run: Run,
        dataset: PreparedDataset,
        fold: FoldName,
        place: Workplace,
        progress: Progress,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        self._ranks = ranks
        self.run, self.dataset, self.fold, self.place = run, dataset, fold, place
        self.task = run.task
        self._progress = progress
        self._settings = run.recipe.training
        self._augments_on_device = False
        split = cases_of(dataset.splits, fold)
        self._training = self._cases(split["train"])
        self._validation = self._cases(split["val"])
        if not self._training:
            raise RecipeError(f"{dataset.root}: fold {fold} has no training cases. Prepare it again.")
        self.task.begin([*self._training.values()], [*self._validation.values()])

    def train(
        self, options: TrainOptions, limit: TimeLimit | None, reasons: dict[str, str]
    ) -> tuple[FoldSummary, list[str]]:
        """Train to the end of the schedule and validate, or stop where asked.

        Args:
            options: what is asked of every fold.
            limit: of this one, its validation included; a resumed one has that of its first session.
            reasons: what was chosen, and why, a line each.
        """
        folder, last = self.run.fold_folder(self.fold), self.run.checkpoint(self.fold, "last")
        begun = self._ranks.agree(last.is_file())
        if begun and not options.resume:
            raise already_trained(self.run, self.fold)
        journal = Journal(folder, self._progress) if self._ranks.leads else SilentJournal()
        threads = keep_threads(self.run.recorded(self.fold)) if begun and options.deterministic else None
        for line in (*options.notes, *reasons.values(), *([threads] if threads else []), *self._counts()):
            journal.say(line)
        state = self.fresh_state()
        if limit is not None:
            state.counters.budget_seconds, state.counters.cpu_time = limit.seconds, limit.cpu
        if begun:
            state.restore(last)
            self._ranks.wait()
            journal.say(f"resumed at step {state.counters.step} of {state.counters.steps}")
        elif options.init_from is not None:
            journal.say(load_initial_weights(state, options.init_from, self.fold, options.init_strict))
        self.place, line = self._compiled(state.network, options.deterministic)
        journal.say(line)
        known = self.run.recorded(self.fold).get("augment_on") if self._ranks.leads else None
        choice = choose_augment(self._settings.augment_on, self.place.device, self._ranks.beside, known)
        self._augments_on_device, where = self._ranks.agree(choice)
        journal.say(where)
        if self._ranks.leads:
            self._record({**reasons, "compile": line, "augment": where}, state, options)
            done = len(state.counters.history)
            journal.follow(open_trackers(options.log, self.run, self.fold, done, journal.say))
        with (
            self._cost_recorded(),
            StopRequests(self.run.root, self._ranks.leads, self._progress.say) as stop,
        ):
            with closing(journal):
                stopped = self._loop(state, journal).go(stop)
            self._ranks.wait()
            if not stopped:
                try:
                    with stop.at_once():
                        scores = self._validate(journal, stop)
                    return self._summary(state, scores.scores, None), list(scores.faults)
                except KeyboardInterrupt as interruption:
                    stopped = str(interruption) or "interrupted"
        fact = progress_of(state.counters)
        if stop.interrupted:
            journal.note(f"{stopped}: {fact}")
            raise KeyboardInterrupt(fact)
        journal.say(f"{stopped}: {fact}; use --resume to continue")
        return self._summary(state, {}, stopped), []

    def fresh_state(self) -> TrainingState:
        """Network, optimizer and average at step 0; the seed and the fold decide the weights."""
        torch.manual_seed(self._settings.seed * 1000 + stream_of(self.fold))
        network = make_network(self.run.recipe, self.run.manifest)
        if isinstance(network, WithCovariates):
            network.standardize_by(np.stack([case.covariates for case in self._training.values()]))
        network = network.to(self.place.device).to(memory_format=self.place.layout)  # type: ignore[call-overload]
        if self.place.device.type == "cpu" and self.place.precision == "bf16":
            make_shallow_safe(network)
        if self._settings.sync_batchnorm and self._ranks.world > 1 and self.place.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        optimizer = make_optimizer(network, self._settings.optimizer)
        average = WeightAverage(network, self._settings.ema) if self._settings.ema else None
        scaler = torch.amp.GradScaler(self.place.device.type, enabled=self.place.precision == "fp16")
        steps = self._settings.steps
        return TrainingState(network, optimizer, average, scaler, Counters(steps=steps, asked=steps))

    def _compiled(self, network: nn.Module, deterministic: bool) -> tuple[Workplace, str]:
        """The workplace with the choice whether to compile, rank 0's, and the reason of it."""
        answer = None
        if self._ranks.leads:
            wanted, known = self._settings.compile, self.run.recorded(self.fold).get("compiled")
            if wanted == "auto" and deterministic:
                wanted = "never"  # a clock decides otherwise
            channels = input_channels(self.run.recipe, self.run.manifest)
            shape = (self.run.plan.batch_size, channels, *self.run.plan.patch_size)
            answer = choose_compile(wanted, network, shape, self.place, known)
        answer = self._ranks.agree(answer)
        assert answer is not None
        return dataclasses.replace(self.place, compiled=answer[0]), answer[1]

    def first_batch(self) -> Batch:
        """What the first step learns from, augmented by the CPU."""
        return cast(Batch, self._reader().batch(self._sampler(0).requests(0)))

    def _cases(self, ids: Sequence[str]) -> dict[str, PatchCase]:
        """The cases that the task uses."""
        found = {case_id: self.task.case(self.dataset.case(case_id)) for case_id in ids}
        return {case_id: case for case_id, case in found.items() if case is not None}

    def _counts(self) -> list[str]:
        """Lines that describe the cases of the fold."""
        split = cases_of(self.dataset.splits, self.fold)
        parts = {"train": self._training, "val": self._validation}
        found = {
            part: self.task.count([*kept.values()], len(split[part]) - len(kept))
            for part, kept in parts.items()
        }
        apart = len(split.get("test", ()))
        lines = [f"test: {apart} cases stay apart"] if apart and self.fold == NO_FOLD else []
        return [*(f"{part}: {line}" for part, line in found.items() if line), *lines]

    def _reader(self) -> PatchReader:
        plan = self.run.plan
        return PatchReader(
            self._training,
            plan.patch_size,
            self._settings.augment,
            plan.spacing_mm,
            self.task.encode,
            self._augments_on_device,
        )

    def _sampler(self, rollbacks: int) -> PatchSource:
        plan, settings = self.run.plan, self._settings
        key, size = (settings.seed, stream_of(self.fold), rollbacks), plan.batch_size * self._ranks.world
        sampler = Sampler(self._training, plan.patch_size, size, settings.foreground, key)
        return sampler if self._ranks.world == 1 else ShareOfSampler(sampler, self._ranks)

    def pace(self, step_seconds: float) -> Pace:
        """The pace of this fold if a step takes that long."""
        patches = self.run.plan.batch_size * self._settings.accumulate
        return Pace.of_step(step_seconds, patches, self._epoch_passes, self._final_passes)

    @property
    def _epoch_passes(self) -> int:
        """Validation patches of an epoch."""
        cases = len(self._validation)
        return min(cases, 1) and (cases if self.task.centered else self._settings.validation_patches)

    @property
    def _final_passes(self) -> int:
        """Patches of the validation of whole volumes."""
        plan, inference = self.run.plan, self.run.recipe.inference
        mirrors = 2 ** len(self._settings.augment.mirror) if inference.tta == "mirror" else 1
        windows = (
            window_count(case.shape, plan.patch_size, inference.overlap) for case in self._validation.values()
        )
        return mirrors * sum(windows)

    def _loop(self, state: TrainingState, journal: Journal) -> Loop:
        plan, settings = self.run.plan, self._settings
        validation = self._validation
        requests = []
        if validation:
            key = (settings.seed, stream_of(self.fold), _VALIDATION_STREAM)
            centered, count = self.task.centered, self._epoch_passes
            sampler = Sampler(validation, plan.patch_size, 1, settings.foreground, key, centered)
            requests = [r for k in range(count) for r in sampler.requests(k)]
        unvaried = PatchReader(validation, plan.patch_size, None, plan.spacing_mm, self.task.encode)
        patches = ValidationPatches(requests, unvaried, self.task, plan.batch_size)
        return Loop(
            self.run,
            self.fold,
            state,
            Patches(self._sampler, self._reader(), patches),
            self.place,
            journal,
            final_passes=self._final_passes,
            ranks=self._ranks,
        )

    def _record(self, reasons: dict[str, str], state: TrainingState, options: TrainOptions) -> None:
        """What run.json says of this fold; each session adds itself."""
        known = self.run.recorded(self.fold)
        session: dict[str, Any] = {**provenance(), **reasons, "from_step": state.counters.step}
        session["deterministic"] = options.deterministic
        facts: dict[str, Any] = {
            "seed": self._settings.seed,
            "prepared": str(self.dataset.root),
            "training_cases": len(self._training),
            "training_subjects": len({self.dataset.case(case_id).subject for case_id in self._training}),
            "steps": state.counters.steps,
            "parameters": sum(p.numel() for p in state.network.parameters()),
            "compiled": self.place.compiled,
            "augment_on": "gpu" if self._augments_on_device else "cpu",
            "score": {"name": self.task.score_name, "higher_is_better": self.task.higher_is_better},
            "sessions": [*known.get("sessions", []), session],
        }
        self.run.record(self.fold, facts)

    @contextmanager
    def _cost_recorded(self) -> Iterator[None]:
        """Record what the block takes, as the cost of the session that `_record` wrote last."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            if self._ranks.leads:
                peak = peak_memory(self.place.device) / 2**30
                cost = {
                    "device": self.place.device.type,
                    "seconds": round(time.monotonic() - wall, 2),
                    "cpu_seconds": round(time.process_time() - cpu, 2),
                    "processes": self._ranks.world,
                    **({} if math.isnan(peak) else {"peak_gib": round(peak, 3)}),
                }
                known = self.run.recorded(self.fold)
                *earlier, last = known["sessions"]
                self.run.record(self.fold, {**known, "sessions": [*earlier, {**last, "cost": cost}]})

    def _validate(self, journal: Journal, stop: StopRequests) -> VolumeScores:
        """Score whole volumes, or read what a former session scored."""
        if not self._validation:
            journal.say(f"fold {self.fold} has no validation cases: nothing to score or to calibrate")
            if self._ranks.leads:
                self.run.record(self.fold, {**self.run.recorded(self.fold), "finished": True})
            return VolumeScores({}, ())
        known = self._ranks.agree(read_scores(self.run, self.fold))
        if known is not None:
            return known
        cases, place = list(self._validation), self.place
        found = validate_volumes(self.run, self.fold, self.dataset, cases, place, journal, self._ranks, stop)
        found = self._ranks.agree(found)
        assert found is not None
        return found

    def _summary(self, state: TrainingState, scores: dict[str, float], stopped: str | None) -> FoldSummary:
        counters = state.counters
        return FoldSummary(
            fold=self.fold,
            folder=self.run.fold_folder(self.fold),
            steps=counters.step,
            planned_steps=counters.steps,
            seconds=round(counters.seconds, 1),
            score_name=self.task.main_metric,
            score_title=self.task.score_title,
            patch_score=math.nan if counters.best_score is None else counters.best_score,
            scores=scores,
            stopped=stopped,
        )
