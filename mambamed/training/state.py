"""The state of a training: everything that `--resume` needs, in one file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambamed.errors import ModelError
from mambamed.run.checkpoint import load_weights, read_checkpoint, write_checkpoint
from mambamed.training.optimize import WeightAverage, optimizer_tensors, restore_optimizer


@dataclass
class Counters:
    """Counters of a training; JSON-ready. Random states are absent because each step derives its own."""

    step: int = 0  # optimizer updates done (or skipped) so far
    steps: int = 0  # length of the run; a limit of time or the recipe's patience may have shortened it
    asked: int = 0  # steps requested by the recipe; differs when the run is extended
    seconds: float = 0.0  # spent so far, in all sessions
    budget_seconds: float | None = None  # time of the fold under `--max-hours` or `--max-cpu-minutes`
    cpu_time: bool = False  # whether `seconds` and `budget_seconds` are CPU time
    planned: bool = False  # whether `steps` was adapted to it
    loss_sum: float = 0.0  # of the unfinished epoch
    loss_count: int = 0
    skipped: int = 0  # steps whose loss or gradient was not finite
    skipped_in_row: int = 0  # those since the last good one
    rate_factor: float = 1.0  # learning rate relative to the schedule's; halved by each roll-back
    rollbacks: int = 0
    best_score: float | None = None  # of the checkpoint `best`; None before there is one
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)  # rows of log.csv, one per epoch


@dataclass
class TrainingState:
    """Network, optimizer, moving average and counters of one fold."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    scaler: torch.amp.GradScaler  # scales the loss under fp16; disabled otherwise
    counters: Counters

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and predicts: the moving average if there is one."""
        return self.average.network if self.average else self.network

    def save(self, path: Path) -> None:
        """Write everything, atomically."""
        tensors: dict[str, Tensor] = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        if self.average:
            tensors |= {f"ema.{n}": t for n, t in self.average.network.state_dict().items()}
        state = optimizer_tensors(self.network, self.optimizer)
        tensors |= {f"optimizer.{n}": t for n, t in state.items()}
        facts = {"counters": dataclasses.asdict(self.counters), "scaler": self.scaler.state_dict()}
        write_checkpoint(path, tensors, facts)

    def save_validated(self, path: Path) -> None:
        """Write only the weights that predict."""
        counters = self.counters
        facts = {"step": counters.step, "epoch": counters.best_epoch, "score": counters.best_score}
        weights = {f"network.{n}": t for n, t in self.validated.state_dict().items()}
        write_checkpoint(path, weights, facts)

    def restore(self, path: Path) -> None:
        """Restore what `save` wrote, bit by bit; ModelError if the file is damaged or of another network."""
        content = read_checkpoint(path)
        if "counters" not in content.facts or "scaler" not in content.facts:
            raise ModelError(
                f"{path}: counters: missing: training cannot resume from weights alone. "
                "Use --init-from with another output folder."
            )
        load_weights(self.network, content.part("network"), path)
        if self.average:
            load_weights(self.average.network, content.part("ema"), path)
        restore_optimizer(self.network, self.optimizer, content.part("optimizer"))
        if content.facts["scaler"]:
            self.scaler.load_state_dict(content.facts["scaler"])
        fresh = self.counters
        self.counters = Counters(**content.facts["counters"])
        if fresh.asked != self.counters.asked:  # the run was extended
            self.counters.steps = self.counters.asked = fresh.asked
            self.counters.planned, budget = False, fresh.budget_seconds
            self.counters.cpu_time = fresh.cpu_time
            self.counters.budget_seconds = None if budget is None else budget + self.counters.seconds

    def is_finite(self) -> bool:
        """Whether all weights that predict are finite."""
        return all(
            bool(torch.isfinite(t).all())
            for t in self.validated.state_dict().values()
            if t.is_floating_point()
        )
