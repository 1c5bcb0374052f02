"""The loop over steps and epochs of one fold, in the order of execution."""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mambamed.batches.device_feed import on_device
from mambamed.batches.loader import AnyBatch, PatchReader, batches_ahead, loader_threads
from mambamed.batches.sampler import PatchSource, random_stream
from mambamed.documents.splits import NO_FOLD, FoldName
from mambamed.errors import RunError
from mambamed.report.contact_sheet import sheet_of_patches
from mambamed.run.device import peak_memory
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.training.costs import cost_of
from mambamed.training.journal import Journal
from mambamed.training.limit import clock_of
from mambamed.training.ranks import Ranks
from mambamed.training.schedule import Pace, learning_rate, steps_that_fit
from mambamed.training.state import TrainingState
from mambamed.training.step import Outcome, Steps, is_finite
from mambamed.training.stopping import StopRequests
from mambamed.training.validation_patches import ValidationPatches

BAD_STEPS_IN_ROW = 10
ROLLBACKS = 3
_WARM_STEPS = 3  # the first ones compile kernels and allocate memory
_MEASURED_STEPS = 8
_MEASURED_SECONDS = 30.0  # of slow steps, fewer are measured
_DRIFT = 0.05  # fraction of the budget by which a plan may be off before it is revised
_NAMES_SHOWN = 8  # in the line of an epoch; log.csv has all
_NAMES_IN_BAR = 4
_NO_FOLD_STREAM = 10**6  # no fold has this number
_MODEL_STREAM = 4  # next to those of `batches.sampler`


def stream_of(fold: FoldName) -> int:
    """The number of a fold in the keys of random streams."""
    return _NO_FOLD_STREAM if fold == NO_FOLD else int(fold)


@dataclass(frozen=True)
class Patches:
    """The patches of one fold."""

    # number of roll-backs -> sampler; each draws other patches, so that a bad patch is not repeated
    sampler: Callable[[int], PatchSource]
    reader: PatchReader  # of training patches, with augmentation and encoding
    validation: ValidationPatches  # scored after each epoch; empty without validation cases


class Loop:
    """Training of one fold, from the current state to the end of the schedule.

    Args:
        journal: receives log lines and the rows of log.csv.
        final_passes: number of patches in the validation of whole volumes, for a limit of time.
        ranks: this process among those that train together.
        clock: seconds from any starting point (default: wall time, or CPU time if the state counts that).
        queued: see `Steps`; the loss of such a step is read when the next one is queued.
    """

    def __init__(
        self,
        run: Run,
        fold: FoldName,
        state: TrainingState,
        patches: Patches,
        place: Workplace,
        journal: Journal,
        *,
        final_passes: int = 0,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        clock: Callable[[], float] | None = None,
        queued: bool | None = None,
    ) -> None:
        self.run, self.state, self.patches, self.journal = run, state, patches, journal
        self._fold, self._task, self._settings = fold, run.task, run.recipe.training
        self._place, self._final_passes, self._ranks = place, final_passes, ranks
        self._clock = clock or clock_of(state.counters.cpu_time)
        network: Any = torch.compile(state.network, dynamic=False) if place.compiled else state.network
        self._steps = Steps(state, run.task, place, self._settings, ranks, network, queued)
        self._unread: deque[tuple[int, Outcome]] = deque()  # steps whose loss is not counted yet
        self._reason: str | None = None  # why this process is to stop
        self._all_stop = False  # whether a step has told all processes that one of them is to stop
        self._step_seconds: list[float] = []
        self._cost_told = False
        self._last_lap = self._clock()

    def go(self, stop: StopRequests) -> str | None:
        """Train to the end of the schedule, or until a request to stop.

        Saves the state and returns the reason for stopping, or None. RunError if the loss stays non-finite.
        A loop can go once.
        """
        try:
            return self._go(stop)
        finally:
            self._steps.release()

    def _go(self, stop: StopRequests) -> str | None:
        if self.state.counters.step == 0:
            self._save()
        self._show_stage()
        self._lap()
        reason = None
        if self._epoch_is_due():  # it was stopped before the patches were scored
            self._set_rate(self.state.counters.step - 1)
            reason = self._end_epoch(stop)
        while reason is None and self.state.counters.step < self.state.counters.steps:
            reason = self._go_on(stop)
        if reason is None and self._ranks.world > 1:  # a request in the last step is not exchanged yet
            asked = self._ranks.gather([self._reason or stop.reason()])
            reason = asked[self._ranks.rank] or ("another process was stopped" if any(asked) else None)
        return reason

    def _go_on(self, stop: StopRequests) -> str | None:
        """Take steps until the end, a request to stop, or a roll-back."""
        counters = self.state.counters
        sampler = self.patches.sampler(counters.rollbacks)
        device, reader = self._place.device, self.patches.reader
        threads, pin = loader_threads(device, self._ranks.beside), device.type == "cuda"
        first = counters.step * self._settings.accumulate
        source = batches_ahead(sampler, reader, first, sys.maxsize, threads, pin)
        with closing(on_device(source, device, self._place.layout) if pin else source) as batches:
            while True:
                self._take_step(batches)
                counters.step += 1
                self._step_seconds.append(self._lap())
                if counters.skipped_in_row >= BAD_STEPS_IN_ROW:
                    self._roll_back()
                    return None
                unplanned = not counters.planned
                self._plan_once()
                if unplanned:  # later, all processes agree at the end of each epoch
                    counters.steps, counters.planned = self._agreed(counters.steps, counters.planned)
                self.journal.progress.advance(1, **self._facts())
                self._reason = self._reason or stop.reason()
                if self._all_stop or (self._reason and self._ranks.world == 1):
                    self._save()
                    return self._reason or "another process was stopped"
                if self._epoch_is_due() and (reason := self._end_epoch(stop)):
                    return reason
                if counters.step >= counters.steps:
                    return None

    @property
    def _patches_per_step(self) -> int:
        """Patches that this process reads for a step."""
        return self.run.plan.batch_size * self._settings.accumulate

    def _epoch_is_due(self) -> bool:
        """Whether all steps of an epoch are taken, and its row of log.csv is not written yet."""
        counters = self.state.counters
        ends = counters.step % self._settings.steps_per_epoch == 0 or counters.step >= counters.steps
        known = counters.history[-1]["step"] if counters.history else 0
        return ends and known < counters.step

    def _take_step(self, batches: Iterable[AnyBatch]) -> None:
        """One optimizer update on the next batches, skipped if loss or gradient are not finite."""
        counters = self.state.counters
        key = (self._settings.seed, stream_of(self._fold), counters.rollbacks, _MODEL_STREAM, counters.step)
        key += () if self._ranks.leads else (self._ranks.rank,)  # dropout differs between processes
        torch.manual_seed(int(random_stream(*key).integers(2**63)))
        self._set_rate(counters.step)
        outcome = self._steps.take(batches, counters.step, stops=self._reason is not None)
        self._unread.append((counters.step, outcome))
        self._count(all_but=1 if self._steps.queued else 0)
        if counters.skipped_in_row:
            self._count()  # so that a roll-back begins after the same step on every device

    def _count(self, all_but: int = 0) -> None:
        """Count the losses of the steps taken, all but the last ones, which a GPU may still compute."""
        counters = self.state.counters
        while len(self._unread) > all_but:
            step, outcome = self._unread.popleft()
            loss, norm, stops = outcome.read()
            self._all_stop |= stops
            if is_finite(loss, norm):
                counters.loss_sum += loss
                counters.loss_count += 1
                counters.skipped_in_row = 0
                continue
            counters.skipped += 1
            counters.skipped_in_row += 1
            self.journal.say(
                f"step {step}: loss {loss}, gradient {norm}: skipped ({counters.skipped} so far); "
                f"patches of {', '.join(outcome.case_ids)}"
            )

    def _set_rate(self, step: int) -> None:
        """Set the learning rate of a step, counted from 0."""
        settings, counters = self._settings, self.state.counters
        rate = learning_rate(settings.schedule, settings.optimizer.lr, step, counters.steps)
        for group in self.state.optimizer.param_groups:
            group["lr"] = counters.rate_factor * rate

    def _roll_back(self) -> None:
        """Restore the last checkpoint, with half the learning rate and other patches."""
        old = self.state.counters
        if old.rollbacks >= ROLLBACKS:
            raise RunError(
                f"{self.run.fold_folder(self._fold)}: loss not finite in {BAD_STEPS_IN_ROW} steps in a row "
                f"at step {old.step}, after {ROLLBACKS} roll-backs. Lower training.optimizer.lr or use fp32."
            )
        scaler = self.state.scaler.state_dict()  # the scale of the checkpoint may be the one that overflowed
        self._ranks.wait()
        self.state.restore(self.run.checkpoint(self._fold, "last"))
        self._ranks.wait()
        if scaler:
            self.state.scaler.load_state_dict(scaler)
        new = self.state.counters
        new.rollbacks, new.rate_factor = old.rollbacks + 1, old.rate_factor / 2
        new.skipped, new.seconds, new.skipped_in_row = old.skipped, old.seconds, 0
        new.steps, new.planned = old.steps, old.planned
        self.journal.say(
            f"{BAD_STEPS_IN_ROW} steps in a row were not finite: back to step {new.step} with "
            f"{new.rate_factor:g} of the learning rate"
        )
        self._show_stage()

    def _end_epoch(self, stop: StopRequests) -> str | None:
        """Score the validation patches, write checkpoints and a row of log.csv, and revise the schedule.

        Returns the reason for stopping if a signal comes during the scoring, which is then done when the
        training is resumed; or None.
        """
        self._count()
        state, counters, place, task = self.state, self.state.counters, self._place, self._task
        validation, epoch = self.patches.validation, math.ceil(counters.step / self._settings.steps_per_epoch)
        began = self._clock()
        try:
            # Other processes would wait forever.
            with stop.at_once() if self._ranks.world == 1 else nullcontext():
                self._ranks.share_buffers(state.validated)
                loss, scores = validation.score(state.validated, place, self._ranks)
        except KeyboardInterrupt:
            self._save()
            return "interrupted"
        pass_seconds = (self._clock() - began) / max(len(validation), 1)
        known = [each for each in scores.values() if not math.isnan(each)]
        score = sum(known) / len(known) if known else math.nan
        best = (self._is_better(score) or not len(validation)) and state.is_finite()
        if best:
            counters.best_score, counters.best_epoch = score, epoch
            if self._ranks.leads:
                state.save_validated(self.run.checkpoint(self._fold, "best"))
        taken = sum(row["seconds"] for row in counters.history)
        row = {
            "epoch": epoch,
            "step": counters.step,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "loss": counters.loss_sum / counters.loss_count if counters.loss_count else math.nan,
            "validation_loss": loss if len(validation) else math.nan,
            task.score_name: score,
            **{f"{task.score_name}_{name}": each for name, each in scores.items()},
            "seconds": round(counters.seconds - taken, 2),
            "skipped": counters.skipped,
        }
        counters.history.append(row)
        counters.loss_sum, counters.loss_count = 0.0, 0
        patience = self._settings.patience
        if patience and self._epochs_without_gain() >= patience and counters.step < counters.steps:
            counters.steps = counters.step
            self.journal.say(f"no epoch was better in {patience}: training ends here")
        if validation.seen:  # before the state, so that a killed training draws the patches when it resumes
            plan, manifest = self.run.plan, self.run.manifest
            names = manifest.labels, manifest.landmarks
            self.journal.picture(sheet_of_patches(validation.seen, plan.spacing_mm, *names))
        self._save()
        self.journal.tabulate(counters.history, task.score_name, task.higher_is_better)
        shown = list(scores.items())[:_NAMES_SHOWN]
        each = "  ".join(f"{name} {value:.3f}" for name, value in shown)
        each += f"  and {len(scores) - len(shown)} more" if len(scores) > len(shown) else ""
        found = (
            f"  {task.score_name} {score:.4f} ({each}){'  best' if best else ''}" if len(validation) else ""
        )
        self.journal.say(f"epoch {epoch}: loss {row['loss']:.4f}{found}  {row['seconds']:.0f} s")
        planned = counters.steps
        self._plan_again(epoch_seconds=self._lap(), pass_seconds=pass_seconds)
        counters.steps, counters.planned = self._agreed(counters.steps, counters.planned)
        if counters.steps != planned:
            self._save()  # a plan may end the training here; it must have ended after resuming, too
        return None

    def _agreed(self, steps: int, planned: bool) -> tuple[int, bool]:
        """Rank 0's plan under a limit of time, because clocks differ."""
        if self.state.counters.budget_seconds is None:
            return steps, planned
        return self._ranks.agree((steps, planned))

    def _save(self) -> None:
        self._count()
        if self._ranks.leads:
            self.state.save(self.run.checkpoint(self._fold, "last"))

    def _epochs_without_gain(self) -> int:
        """Epochs since the best score was first reached."""
        scores = [row[self._task.score_name] for row in self.state.counters.history]
        known = [score for score in scores if not math.isnan(score)]
        if not known:
            return 0
        return len(scores) - 1 - scores.index(max(known) if self._task.higher_is_better else min(known))

    def _is_better(self, score: float) -> bool:
        """Prefers the later of equal epochs: with few validation cases many have the same score."""
        best = self.state.counters.best_score
        if best is None or math.isnan(best):
            return not math.isnan(score)
        return score >= best if self._task.higher_is_better else score <= best

    # --- time ---------------------------------------------------------------------------------------------

    def _lap(self) -> float:
        """Seconds since the last call, which are added to the counters."""
        now = self._clock()
        seconds, self._last_lap = now - self._last_lap, now
        self.state.counters.seconds += seconds
        return seconds

    def _plan_once(self) -> None:
        """Once some steps are measured: report the cost; with a limit of time, adapt the schedule to it."""
        counters, measured = self.state.counters, self._step_seconds[_WARM_STEPS:] or self._step_seconds[1:]
        few = len(self._step_seconds) < _WARM_STEPS + _MEASURED_STEPS
        if self._cost_told or not measured or (few and sum(measured) < _MEASURED_SECONDS):
            return
        self._cost_told = True
        step, settings = statistics.median(measured), self._settings
        patches = len(self.patches.validation)
        pace = Pace.of_step(step, self._patches_per_step, patches, self._final_passes)
        if counters.budget_seconds is None:
            left = max(counters.steps - counters.step, 0)
            gib = peak_memory(self._place.device) / 2**30
            cost = cost_of(pace, left, settings.steps_per_epoch, self._place.device.type, gib)
            for line in cost.lines():
                self.journal.say(line)
        elif not counters.planned:
            self._set_steps(pace, f"{step:.2f} s a step")
            counters.planned = True

    def _plan_again(self, epoch_seconds: float, pass_seconds: float) -> None:
        """With a limit of time: change the number of remaining steps if the plan no longer fits."""
        counters = self.state.counters
        steps, self._step_seconds = self._step_seconds[-self._settings.steps_per_epoch :], []
        if counters.budget_seconds is None or counters.step >= counters.steps or not steps:
            return
        counters.planned = True
        pace = Pace(statistics.mean(steps), epoch_seconds, pass_seconds * self._final_passes)
        per_step = pace.step_seconds + epoch_seconds / self._settings.steps_per_epoch
        end = counters.seconds + (counters.steps - counters.step) * per_step + pace.validation_seconds
        late = end - counters.budget_seconds
        short = counters.steps < self._settings.steps
        if late > _DRIFT * counters.budget_seconds or (short and late < -_DRIFT * counters.budget_seconds):
            self._set_steps(pace, f"now {per_step:.2f} s a step, epochs' ends included")

    def _set_steps(self, pace: Pace, reason: str) -> None:
        counters, settings = self.state.counters, self._settings
        assert counters.budget_seconds is not None
        left = counters.budget_seconds - counters.seconds
        counters.steps = steps_that_fit(pace, counters.step, settings.steps_per_epoch, left, settings.steps)
        if self._ranks.leads:
            recorded = self.run.recorded(self._fold)
            self.run.record(self._fold, {**recorded, "steps": counters.steps})
        self.journal.say(
            f"schedule: {counters.steps} of {settings.steps} steps fit into "
            f"{counters.budget_seconds / 3600:.2f} h{' of CPU time' * counters.cpu_time} ({reason}; about "
            f"{pace.validation_seconds:.0f} s kept for the validation of whole volumes)"
        )
        self._show_stage()

    def _show_stage(self) -> None:
        counters = self.state.counters
        self.journal.progress.start(
            f"training fold {self._fold}", max(counters.steps - counters.step, 0), "steps"
        )

    def _facts(self) -> dict[str, str | float]:
        counters = self.state.counters
        facts: dict[str, str | float] = {
            "epoch": math.ceil(counters.step / self._settings.steps_per_epoch),
            "loss": counters.loss_sum / counters.loss_count if counters.loss_count else math.nan,
        }
        if counters.history and len(self.patches.validation):
            name, row = self._task.score_name, counters.history[-1]
            each = [row[f"{name}_{part}"] for part in self._task.names[:_NAMES_IN_BAR]]
            parts = f" ({' '.join(f'{value:.3f}' for value in each)})" if len(each) > 1 else ""
            facts[name] = f"{row[name]:.3f}{parts}"
        facts["lr"] = self.state.optimizer.param_groups[0]["lr"]
        recent = self._step_seconds[-20:]
        patches = len(recent) * self._patches_per_step * self._ranks.world
        facts["patches/s"] = patches / max(sum(recent), 1e-9)
        facts["GiB"] = peak_memory(self._place.device) / 2**30
        return facts
