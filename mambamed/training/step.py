"""One training step: forward, loss, backward, clipping, update and average; without effect if not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from mambamed.batches.loader import AnyBatch
from mambamed.recipe import Training
from mambamed.run.device import autocast
from mambamed.run.workplace import Workplace
from mambamed.tasks.base import Task
from mambamed.training.optimize import RunningStatistics
from mambamed.training.ranks import Ranks
from mambamed.training.state import TrainingState


@dataclass(frozen=True)
class Outcome:
    """The result of a step, which may still be computed."""

    case_ids: tuple[str, ...]  # of this process's patches
    _numbers: Tensor  # `(3,)` float64; of the CPU if there is `_done`, and complete after it
    _done: Any = None  # an event of the device, or None

    def read(self) -> tuple[float, float, bool]:
        """Loss, gradient norm before clipping, and whether some process is to stop; waits for the device.

        All three are the same in all processes, the loss is their mean.
        """
        if self._done is not None:
            self._done.synchronize()
        loss, norm, stops = self._numbers.tolist()
        return loss, norm, stops > 0


def is_finite(loss: float, norm: float) -> bool:
    """Whether a step with this outcome changed the weights."""
    return math.isfinite(loss) and math.isfinite(norm)


class LossOfBatch(nn.Module):
    """From image and target to the loss, the network under autocast.

    Args:
        network: as it is called, e.g. compiled.
        task: for the loss.
        place: for the precision.
    """

    def __init__(self, network: nn.Module, task: Task, place: Workplace) -> None:
        super().__init__()
        self.network, self._task, self._place = network, task, place

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        with autocast(self._place.device, self._place.precision):
            outputs = self.network(image)
        return self._task.loss(outputs, target)


class Steps:
    """The steps of one training. The dry run and the probe of `--fit` take the same steps as the loop.

    Args:
        state: changed by the steps, without its counters.
        task: for the loss.
        place: device, precision and memory layout.
        settings: for the limit of the gradient's norm, and the number of batches per step.
        ranks: this process among those that train together.
        network: as it is called, e.g. compiled (default: that of the state).
        queued: whether the device decides if a step is finite, so that `take` does not wait for it (default:
            on CUDA, if the optimizer has such a form). The weights are the same bits; the moving average is
            the same up to rounding.
    """

    def __init__(
        self,
        state: TrainingState,
        task: Task,
        place: Workplace,
        settings: Training,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        network: nn.Module | None = None,
        queued: bool | None = None,
    ) -> None:
        self._state, self._place, self._ranks = state, place, ranks
        self._clip, self._batches = settings.clip, settings.accumulate
        called = state.network if network is None else network  # a compiled network's truth is its length
        self._loss = ranks.parallel(LossOfBatch(called, task, place))
        self._exchanged = False
        self._statistics = RunningStatistics(state.network)
        able = bool(state.optimizer.defaults.get("fused"))
        self.queued = able and (place.device.type == "cuda" if queued is None else queued)

    def take(self, batches: Iterable[AnyBatch], step: int, stops: bool = False) -> Outcome:
        """Take one step, with the gradients of the next batches accumulated.

        Args:
            batches: those that are needed are taken: `training.accumulate`.
            step: its number from 0, for the moving average.
            stops: whether this process is to stop, for the outcome of all processes.
        """
        state = self._state
        state.network.train()
        self._statistics.keep()
        state.optimizer.zero_grad(set_to_none=True)
        loss, case_ids = self._accumulate(batches)
        state.scaler.unscale_(state.optimizer)
        norm = clip_grad_norm_(state.network.parameters(), self._clip or math.inf)
        numbers = torch.stack([loss, norm, torch.full_like(loss, stops)])
        if self._place.device.type != "cuda":
            numbers = numbers.cpu()  # other devices may lack float64
        numbers = numbers.double()
        self._ranks.average(numbers)
        decide = self._update_on_device if self._decides_later() else self._update
        outcome = decide(numbers, step, case_ids)
        state.scaler.update()
        return outcome

    def _accumulate(self, batches: Iterable[AnyBatch]) -> tuple[Tensor, tuple[str, ...]]:
        """Forward and backward passes; the mean loss of the batches, and their cases."""
        losses: list[Tensor] = []
        case_ids: tuple[str, ...] = ()
        for number, batch in enumerate(islice(batches, self._batches)):
            image, target = batch.on(self._place.device, self._place.layout)
            with self._exchange(is_last=number == self._batches - 1):
                loss = self._loss(image, target)
                if self._batches > 1:
                    loss = loss / self._batches
                self._state.scaler.scale(loss).backward()
            losses.append(loss.detach())
            case_ids += batch.case_ids
        return torch.stack(losses).sum(), case_ids

    def _exchange(self, is_last: bool) -> AbstractContextManager[object]:
        """Within the block gradients are exchanged, or only accumulated if more batches follow.

        Those of the very first backward pass are, see `Ranks.parallel`: the sum is the same.
        """
        if self._ranks.world == 1 or is_last or not self._exchanged:
            self._exchanged = True
            return nullcontext()
        return self._loss.no_sync()  # type: ignore[operator]

    def release(self) -> None:
        """Free what refers to the process group, which can end only then. No further step can be taken."""
        del self._loss

    def _decides_later(self) -> bool:
        """Whether this step can be queued; torch's fused SGD needs a first step that is not skipped."""
        optimizer = self._state.optimizer
        return self.queued and (not optimizer.defaults.get("momentum") or bool(optimizer.state))

    def _update(self, numbers: Tensor, step: int, case_ids: tuple[str, ...]) -> Outcome:
        """Read the numbers, and update the weights if they are finite."""
        state, outcome = self._state, Outcome(case_ids, numbers)
        if is_finite(*outcome.read()[:2]):
            state.scaler.step(state.optimizer)
            if state.average:
                state.average.update(
                    state.network, step, torch.zeros((), device=numbers.device) if self.queued else None
                )
        else:
            self._statistics.put_back()
        return outcome

    def _update_on_device(self, numbers: Tensor, step: int, case_ids: tuple[str, ...]) -> Outcome:
        """Queue an update that has no effect if a number is not finite, as torch's GradScaler does."""
        state = self._state
        bad = (~torch.isfinite(numbers)).any().float()
        state.optimizer.grad_scale, state.optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        state.optimizer.step()
        del state.optimizer.grad_scale, state.optimizer.found_inf  # type: ignore[attr-defined]
        self._statistics.put_back(bad)  # before the average, which would keep a NaN
        if state.average:
            state.average.update(state.network, step, bad)
        if numbers.device.type != "cuda":
            return Outcome(case_ids, numbers)
        read = torch.empty(len(numbers), dtype=numbers.dtype, pin_memory=True).copy_(
            numbers, non_blocking=True
        )
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(numbers.device))
        return Outcome(case_ids, read, done)
