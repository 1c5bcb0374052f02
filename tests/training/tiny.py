"""The smallest training there is: eight blobs in memory and a network of two convolutions."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import Sampler
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan
from mambamed.progress import Silence
from mambamed.recipe import Recipe
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.tasks.cases import LabeledCase
from mambamed.training.journal import Journal
from mambamed.training.loop import Loop, Patches
from mambamed.training.optimize import WeightAverage, make_optimizer
from mambamed.training.state import Counters, TrainingState
from mambamed.training.validation_patches import ValidationPatches

PATCH = (8, 8, 8)
FP16_SCALE = 256.0
MANIFEST = DatasetManifest(name="blobs", channels={"a": "mri"}, labels={"background": 0, "one": 1, "two": 2})


class TinyCase:
    def __init__(self, seed: int) -> None:
        self.class_name = None
        random = np.random.default_rng(seed)
        self.labels = np.zeros((10, 12, 9), np.uint8)
        self.labels[2:6, 2:7, 2:5] = 1
        self.labels[5:9, 6:10, 4:8] = 2
        self.array = (random.normal(0, 0.2, (1, 10, 12, 9)) + self.labels).astype(np.float32)
        places = np.argwhere(self.labels)
        self.foreground = np.concatenate([self.labels[self.labels > 0][:, None], places], axis=1)
        self.shape = self.labels.shape

    def image(self, box=None) -> np.ndarray:
        (a, b, c), (d, e, f) = box or ((0, 0, 0), self.shape)
        return self.array[:, a:d, b:e, c:f]

    def label(self, box=None) -> np.ndarray:
        (a, b, c), (d, e, f) = box or ((0, 0, 0), self.shape)
        return self.labels[a:d, b:e, c:f]


class TinyNet(nn.Module):
    """With all that makes resuming hard: running statistics, dropout, several depths."""

    def __init__(self, channels: int = 1, outputs: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Conv3d(4, outputs, 3, padding=1)
        self.coarse = nn.Conv3d(4, outputs, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        x = self.drop(torch.relu(self.norm(self.first(x))))
        return [self.head(x), self.coarse(x)] if self.training else self.head(x)


def tiny_recipe(**training: Any) -> Recipe:
    settings = {"epochs": 3, "steps_per_epoch": 4, "ema": 0.9, "validation_patches": 3, **training}
    return Recipe.model_validate({"name": "tiny", "network": {"name": "tiny"}, "training": settings})


def tiny_run(root: Path, recipe: Recipe) -> Run:
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        shape_median=(10, 12, 9),
        patch_size=PATCH,
        batch_size=2,
        crop="none",
        normalization=(),
    )
    return Run(root, recipe, plan, MANIFEST)


class Spoken(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.facts: list[dict[str, str | float]] = []

    def advance(self, count: int = 1, **facts: str | float) -> None:
        self.facts.append(facts)

    def say(self, line: str) -> None:
        self.lines.append(line)


class Undisturbed:
    """Nobody asks to stop."""

    at_once = staticmethod(nullcontext)

    def reason(self) -> str | None:
        return None


class StopAfter(Undisturbed):
    """Someone asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def reason(self) -> str | None:
        self._left -= 1
        return "asked" if self._left == 0 else None


def tiny_loop(
    root: Path,
    recipe: Recipe,
    precision: str = "fp32",
    reader: Any = None,
    compiled: bool = False,
    clock: Any = time.monotonic,
    queued: bool | None = None,
) -> Loop:
    """A loop at step 0; `reader` may wrap the patch reader."""
    run = tiny_run(root, recipe)
    run.fold_folder(0).mkdir(parents=True, exist_ok=True)
    settings = recipe.training
    torch.manual_seed(0)
    layout = torch.channels_last_3d if precision == "bf16" else torch.contiguous_format
    network = TinyNet().to(memory_format=layout)  # type: ignore[call-overload]
    state = TrainingState(
        network,
        make_optimizer(network, settings.optimizer),
        WeightAverage(network, settings.ema) if settings.ema else None,
        torch.amp.GradScaler("cpu", init_scale=FP16_SCALE, enabled=precision == "fp16"),
        Counters(steps=settings.steps, asked=settings.steps),
    )
    cases = {f"c{i}": LabeledCase(TinyCase(i)) for i in range(6)}
    others = {f"v{i}": LabeledCase(TinyCase(100 + i)) for i in range(2)}
    training = PatchReader(cases, PATCH, settings.augment, (1.0, 1.0, 1.0), run.task.encode)
    unvaried = PatchReader(others, PATCH, None, (1.0, 1.0, 1.0), run.task.encode)
    chosen = Sampler(others, PATCH, 1, 0.5, (0, 0, 9))
    requests = [r for k in range(settings.validation_patches) for r in chosen.requests(k)]
    return Loop(
        run,
        0,
        state,
        Patches(
            lambda rollbacks: Sampler(cases, PATCH, 2, 0.5, (0, 0, rollbacks)),
            reader(training) if reader else training,
            ValidationPatches(requests, unvaried, run.task, 2),
        ),
        Workplace(torch.device("cpu"), precision, layout, compiled),
        Journal(run.fold_folder(0), Spoken()),
        final_passes=4,
        clock=clock,
        queued=queued,
    )


def same_numbers(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN and seconds do not count."""
    if isinstance(one, dict):
        keys = [key for key in one if "seconds" not in key]
        return one.keys() == other.keys() and all(same_numbers(one[key], other[key]) for key in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(same_numbers(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return one == other
