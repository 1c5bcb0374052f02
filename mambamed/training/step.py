"""One training step: forward, loss, backward, clipping, update and average; without effect if not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mambamed.batches.loader import Batch
from mambamed.run.device import autocast
from mambamed.run.workplace import Workplace
from mambamed.tasks.base import Task
from mambamed.training.optimize import RunningStatistics
from mambamed.training.ranks import Ranks
from mambamed.training.state import TrainingState


@dataclass(frozen=True)
class Outcome:
    """Loss and gradient norm of a step, which may still be computed."""

    _numbers: Tensor  # `(2,)` float64; of the CPU if there is `_done`, and complete after it
    _done: Any = None  # an event of the device, or None

    def read(self) -> tuple[float, float]:
        """Mean loss of all processes, and norm of the gradient before clipping; waits for the device."""
        if self._done is not None:
            self._done.synchronize()
        loss, norm = self._numbers.tolist()
        return loss, norm


def is_finite(loss: float, norm: float) -> bool:
    """Whether a step with this outcome changed the weights."""
    return math.isfinite(loss) and math.isfinite(norm)


class Steps:
    """The steps of one training. The dry run and the probe of `--fit` take the same steps as the loop.

    Args:
        state: changed by the steps, without its counters.
        task: for the loss.
        place: device, precision and memory layout.
        clip: largest norm of the gradient; 0: no limit.
        ranks: this process among those that train together.
        forward: the network as it is called, e.g. compiled (default: that of the state).
        queued: whether the device decides if a step is finite, so that `take` does not wait for it (default:
            on CUDA, if the optimizer has such a form). The weights are the same bits; the moving average is
            the same up to rounding.
    """

    def __init__(
        self,
        state: TrainingState,
        task: Task,
        place: Workplace,
        clip: float,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        forward: Callable[[Tensor], Any] | None = None,
        queued: bool | None = None,
    ) -> None:
        self._state, self._task, self._place, self._clip, self._ranks = state, task, place, clip, ranks
        self._forward = state.network if forward is None else forward
        self._statistics = RunningStatistics(state.network)
        able = bool(state.optimizer.defaults.get("fused"))
        self.queued = able and (place.device.type == "cuda" if queued is None else queued)

    def take(self, batch: Batch, step: int) -> Outcome:
        """Take one step; `step` is its number from 0, for the moving average."""
        state, place = self._state, self._place
        image, target = batch.on(place.device, place.layout)
        state.network.train()
        self._statistics.keep()
        with autocast(place.device, place.precision):
            outputs = self._forward(image)
        loss = self._task.loss(outputs, target)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        self._ranks.average_gradients(state.network.parameters())
        state.scaler.unscale_(state.optimizer)
        norm = clip_grad_norm_(state.network.parameters(), self._clip or math.inf)
        numbers = torch.stack([loss.detach(), norm])
        if place.device.type != "cuda":
            numbers = numbers.cpu()  # other devices may lack float64
        numbers = numbers.double()
        self._ranks.average(numbers[:1])
        outcome = (
            self._update_on_device(numbers, step) if self._decides_later() else self._update(numbers, step)
        )
        state.scaler.update()
        return outcome

    def _decides_later(self) -> bool:
        """Whether this step can be queued; torch's fused SGD needs a first step that is not skipped."""
        optimizer = self._state.optimizer
        return self.queued and (not optimizer.defaults.get("momentum") or bool(optimizer.state))

    def _update(self, numbers: Tensor, step: int) -> Outcome:
        """Read the numbers, and update the weights if they are finite."""
        state, outcome = self._state, Outcome(numbers)
        if is_finite(*outcome.read()):
            state.scaler.step(state.optimizer)
            if state.average:
                state.average.update(
                    state.network, step, torch.zeros((), device=numbers.device) if self.queued else None
                )
        else:
            self._statistics.put_back()
        return outcome

    def _update_on_device(self, numbers: Tensor, step: int) -> Outcome:
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
            return Outcome(numbers)
        read = torch.empty(2, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(numbers.device))
        return Outcome(read, done)
