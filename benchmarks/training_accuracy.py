"""How well networks segment after the same CPU time of training; `benchmarks/train.py --part accuracy`.

Every training is a process of one thread. What it takes is its CPU time: patches read and augmented,
steps, nothing else. Each side is run for a few steps first and thrown away; then its schedule is planned so
that it ends when the time is up, and planned again at every point of the curve, from what its steps have
taken. Between, the network is scored on whole validation volumes, and the clock stands still.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from training_nnunet import make_loader, make_trainer, planned, prepare_dataset, segment

from mambamed.io.images import read_image
from mambamed.preparation.store import CaseFiles, PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.run.device import keep_freed_memory
from mambamed.run.folder import create_run, planned_run
from mambamed.run.workplace import choose_workplace
from mambamed.training.journal import SilentJournal
from mambamed.training.loop import Loop
from mambamed.training.session import Session
from mambamed.training.validation_patches import ValidationPatches
from mambamed.volumes.ensemble import windows_of
from mambamed.volumes.restore import native_labels
from mambamed.volumes.sliding_window import window_logits

WARM_STEPS, PROBE_STEPS = 3, 6  # thrown away; thrown away too, and timed
POINTS = 8  # of a curve
CURVE_CASES = 13  # of the validation cases, evenly chosen
SIDES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "nnmamba": ("`hippocampus_nnmamba`", "hippocampus_nnmamba", ()),
    "none": ("its `mixer: none` twin", "hippocampus_nnmamba", ("network.mixer=none",)),
    "nnunet": ("`hippocampus_nnunet`", "hippocampus_nnunet", ()),
    "peer": ("nnU-Net 2.8, 3d_fullres", "", ()),
    "peer_batch2": ("nnU-Net 2.8, 3d_fullres, batch 2", "", ()),
}


class Side(Protocol):
    """A training that can be led step by step."""

    facts: dict[str, Any]

    def go_to(self, step: int, steps: int) -> None:
        """Train until `step` steps are done, by the schedule of a training of `steps`."""

    def labels(self, case_id: str, mirror: bool) -> NDArray:
        """The network's answer on the case's native grid."""
        ...


class Ours:
    """A recipe of ours, by our loop."""

    def __init__(
        self, dataset: PreparedDataset, fold: int, recipe: str, overrides: Sequence[str], folder: Path
    ) -> None:
        keep_freed_memory()
        endless = ("training.steps_per_epoch=1000000", "training.epochs=1")
        chosen = load_recipe(recipe, [*overrides, *endless])
        self._dataset = dataset
        self._run = create_run(planned_run(chosen, dataset.plan, dataset.manifest, folder))
        self._place, _ = choose_workplace("cpu", chosen.training.precision)
        self._session = Session(self._run, dataset, fold, self._place, Silence())
        self._run.fold_folder(fold).mkdir(parents=True, exist_ok=True)
        self._state = self._session.fresh_state()
        self._step_wanted = 0
        self._loop = self._make_loop(fold)
        self.facts = {
            "recipe": recipe,
            "overrides": list(overrides),
            "precision": self._place.precision,
            "batch": self._run.plan.batch_size,
            "patch": list(self._run.plan.patch_size),
            "parameters": sum(p.numel() for p in self._state.network.parameters()),
        }

    def _make_loop(self, fold: int) -> Loop:
        session, plan = self._session, self._run.plan
        nothing = ValidationPatches([], session._reader(), session.task, plan.batch_size)
        loop = session._loop(self._state, SilentJournal())
        loop._validation = nothing  # the network is scored on whole volumes, outside of the measured time
        return loop

    at_once = staticmethod(nullcontext)

    def reason(self) -> str | None:
        """Why the loop is to stop after this step: someone wants to look at the network."""
        return "a point of the curve" if self._state.counters.step >= self._step_wanted else None

    def go_to(self, step: int, steps: int) -> None:
        """See `Side`."""
        self._step_wanted, self._state.counters.steps = step, steps
        self._loop.go(self)  # pyright: ignore[reportArgumentType] - asks it for nothing else

    def labels(self, case_id: str, mirror: bool) -> NDArray:
        """See `Side`; mirrored along the axes that the recipe mirrors in training."""
        case, place = self._dataset.case(case_id), self._place
        image = torch.from_numpy(np.ascontiguousarray(case.image(), np.float32))
        windows = windows_of(self._run, None, "mirror" if mirror else "none", place.device)
        network = self._state.validated.eval()
        with torch.inference_mode():
            logits = window_logits(
                [network], image, windows, device=place.device, precision=place.precision, layout=place.layout
            )
        return native_labels(logits, case.geometry, self._session.task)  # pyright: ignore[reportArgumentType]


class Theirs:
    """nnU-Net's trainer, its iterations one by one; the rate falls with each of them, not each epoch."""

    def __init__(self, folder: Path, fold: int, batch_size: int | None) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        self._folder = folder
        self._trainer = make_trainer(folder, fold, batch_size=batch_size)
        self._batches = make_loader(self._trainer)
        self._step = 0
        plan = planned(folder)
        self.facts = {
            "precision": "fp32",
            "batch": batch_size or plan["batch_size"],
            "patch": plan["patch_size"],
            "parameters": sum(p.numel() for p in self._trainer.network.parameters()),
        }

    def go_to(self, step: int, steps: int) -> None:
        """See `Side`."""
        trainer = self._trainer
        trainer.set_deep_supervision_enabled(True)
        trainer.network.train()
        trainer.lr_scheduler.max_steps = steps
        while self._step < step:
            trainer.lr_scheduler.step(self._step)
            trainer.train_step(next(self._batches))
            self._step += 1

    def labels(self, case_id: str, mirror: bool) -> NDArray:
        """See `Side`."""
        return segment(self._trainer, self._folder, case_id, mirror)


@dataclass(frozen=True)
class Conditions:
    """What all sides share.

    Attributes:
        prepared: our prepared dataset; its splits are everyone's.
        folder: where nnU-Net's dataset and the results lie.
        seconds: CPU time of a training.
    """

    prepared: Path
    source: Path
    folder: Path
    fold: int
    seconds: float


def train_one(name: str, conditions: Conditions, overrides: Sequence[str], result: Path) -> None:
    """Train one side, its curve and its final scores into `result`, a JSON file written as it grows."""
    torch.set_num_threads(1)
    dataset = PreparedDataset.open(conditions.prepared)
    _, recipe, own = SIDES[name]
    theirs = conditions.folder / "nnunet"
    if not recipe:
        prepare_dataset(conditions.source, theirs, dataset.splits)

    def make(purpose: str) -> Side:
        if not recipe:
            return Theirs(theirs, conditions.fold, 2 if name == "peer_batch2" else None)
        run = conditions.folder / "runs" / f"{result.stem}_{purpose}_{time.time_ns()}"
        return Ours(dataset, conditions.fold, recipe, [*own, *overrides], run)

    pace = _pace(make("probe"))
    val = dataset.splits[conditions.fold]["val"]
    side = make("training")
    document: dict[str, Any] = {
        "side": name,
        "fold": conditions.fold,
        "budget_seconds": conditions.seconds,
        "cases": len(val),
        **side.facts,
        "curve": [],
    }
    few = val[:: max(1, len(val) // CURVE_CASES)]
    spent, done, steps = 0.0, 0, int(conditions.seconds / pace)
    for point in range(1, POINTS + 1):
        goal = done + round((steps - done) / (POINTS - point + 1))
        taken = _cpu_seconds(lambda goal=goal, steps=steps: side.go_to(goal, steps))
        pace, spent, done = taken / max(goal - done, 1), spent + taken, goal
        row = {"seconds": spent, "step": done, "dice": score(side, dataset, few, False)}
        document["curve"].append(row)
        document |= {"steps": steps, "seconds": spent}
        _write(result, document)
        print(name, f"{spent:.0f} s", f"step {done} of {steps}", row["dice"], flush=True)
        if point < POINTS:
            steps = max(goal + 1, goal + int((conditions.seconds - spent) / pace))
    for mirror in (False, True):
        document["mirrored" if mirror else "plain"] = score(side, dataset, val, mirror)
        _write(result, document)
    print(name, "all cases:", document["plain"], "mirrored:", document["mirrored"], flush=True)


def _pace(probe: Side) -> float:
    """CPU-seconds of a step."""
    probe.go_to(WARM_STEPS, 10**6)
    return _cpu_seconds(lambda: probe.go_to(WARM_STEPS + PROBE_STEPS, 10**6)) / PROBE_STEPS


def score(side: Side, dataset: PreparedDataset, case_ids: Sequence[str], mirror: bool) -> dict[str, float]:
    """Mean Dice of each structure over whole cases, against the references as they lie on disk."""
    names = {name: value for name, value in dataset.manifest.labels.items() if value > 0}
    found: dict[str, list[float]] = {name: [] for name in names}
    for case_id in case_ids:
        reference = np.asarray(read_image(CaseFiles.of(dataset.root, case_id).reference).array)
        labels = side.labels(case_id, mirror)
        if labels.shape != reference.shape:
            raise ValueError(f"{case_id}: labels {labels.shape}, reference {reference.shape}")
        for name, value in names.items():
            ours, theirs = labels == value, reference == value
            found[name].append(2 * float((ours & theirs).sum()) / float(ours.sum() + theirs.sum()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time that this process, all its threads, spends on `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _write(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1))
