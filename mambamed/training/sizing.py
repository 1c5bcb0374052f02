"""Width and patch of a general recipe, chosen by measured steps.

The network begins narrow. Its patch is reduced until a step fits into the memory and enough steps fit into
the time; then the network is widened as long as many steps fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.documents.plan import Triple
from mambamed.errors import RecipeError
from mambamed.memory import free_memory_bytes
from mambamed.preparation.options import parse_bytes
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import Choice, Recipe, commented_recipe, parse_recipe
from mambamed.run.folder import planned_run
from mambamed.run.training_cost import duration
from mambamed.run.workplace import Workplace
from mambamed.tasks.proposals import FORMS, NETWORKS_OF_TASKS, Form, Proposal
from mambamed.training.fit import device_memory, network_sizes, probe_step, smaller_patch
from mambamed.training.measured import measured_step
from mambamed.training.schedule import Pace, steps_that_fit

CPU_HOURS, GPU_HOURS = 8.0, 24.0  # for which a recipe is sized if no time is given
# docs/benchmarks.md: a narrow network reaches 0.86 of its final 0.88 after 500 steps, and needs 5000 for it.
LEAST_STEPS = 500  # with fewer, the patch is reduced
ENOUGH_STEPS = 5000  # a wider network must allow as many
_FEW_STEPS = 10_000
_USABLE = 0.9  # of the memory

Measure = Callable[[Recipe], tuple[float, Pace]]


@dataclass(frozen=True)
class Given:
    """Keys of the recipe that the user has given."""

    task: str | None = None
    network: str | None = None
    channels: int | None = None
    patch: Triple | None = None
    batch: int | None = None
    axis_order: str | None = None

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Given:
        network, training = asked.get("network") or {}, asked.get("training") or {}
        patch = training.get("patch_size")
        return cls(
            asked.get("task"),
            network.get("name"),
            network.get("channels"),
            tuple(patch) if patch else None,
            training.get("batch_size"),
            network.get("axis_order"),
        )


@dataclass(frozen=True)
class Size:
    """Width and patch, and what a step costs with them."""

    width: int | None
    patch: Triple
    pace: Pace
    peak_gib: float
    why_width: str = ""
    why_patch: str = ""


class Sizer:
    """Chooses width and patch of one general recipe; `measure` as in `general_recipe`."""

    def __init__(
        self,
        dataset: PreparedDataset,
        place: Workplace,
        proposal: Proposal,
        given: Given,
        overrides: tuple[str, ...],
        hours: float | None,
        measure: Measure | None,
    ) -> None:
        self._dataset, self._place, self._proposal = dataset, place, proposal
        self._given, self._overrides = given, overrides
        self._measure = measure or self._steps_on_device
        default, self._why_network = NETWORKS_OF_TASKS[proposal.task]
        self._network = given.network or default
        if given.network:
            self._why_network = "as asked"
        self._form = FORMS.get(self._network, Form())
        self._on_cpu = place.device.type == "cpu"
        self._hours = hours or (CPU_HOURS if self._on_cpu else GPU_HOURS)
        self._batch = given.batch or proposal.batch[0 if self._on_cpu else 1]

    def sized(self, room_gib: float, fit: str | None) -> Size:
        """The narrowest network and the largest patch for memory and time."""
        widths = self._widths()
        width, patch, why = (
            widths[0],
            self._given.patch or self._proposal.patch,
            "the median case, rounded up",
        )
        if patch != self._proposal.patch:
            why = "as asked"
        elif any(p < s for p, s in zip(patch, self._dataset.plan.shape_median, strict=True)):
            why = "from the plan: at most 128x128x128 voxels"
        while (needed := self._memory(width, patch)) > room_gib:
            smaller = self._smaller(patch, needed, room_gib)
            if smaller is None:
                raise RecipeError(
                    f"{self._dataset.root}: a step of {self._batch} patches of {_shown(patch)} takes "
                    f"{needed:.1f} GiB, {room_gib:.1f} are available{' with --fit ' + fit if fit else ''}. "
                    "Free memory, or use a smaller training.batch_size."
                )
            patch, why = smaller, f"reduced from {_shown(self._proposal.patch)} to fit into the memory"
        peak, pace = self._measured(width, patch)
        least = min(LEAST_STEPS, self._proposal.steps)
        while (steps := self.steps_in(pace)) < least:
            smaller = self._smaller(patch, least, max(steps, 1))
            if smaller is None:
                break
            other_peak, other = self._measured(width, smaller)
            if self.steps_in(other) <= steps:  # more windows to validate took the time that was saved
                break
            peak, pace, patch = other_peak, other, smaller
            why = (
                f"reduced from {_shown(self._proposal.patch)} to allow more steps in {duration(self._hours)}"
            )
        if self._proposal.whole and (share := self._share(patch)) < 1:
            why += f"; it holds {share:.0%} of the median case: 'prepare --spacing' with larger voxels helps"
        narrow = "narrow: more steps in the same time" if len(self._widths()) > 1 else ""
        why_width = "as asked" if self._given.channels else narrow
        return Size(width, patch, pace, peak, why_width, why)

    def widened(self, size: Size, room_gib: float) -> Size:
        """The widest network of which enough steps fit into the time."""
        enough = min(ENOUGH_STEPS, self._proposal.steps)
        for width in self._widths()[1:]:
            # A wider network takes longer: it is not tried if the narrower one hardly allows enough steps.
            if self.steps_in(size.pace) < 1.5 * enough or self._memory(width, size.patch) > room_gib:
                break
            peak, pace = self._measured(width, size.patch)
            if self.steps_in(pace) < enough:
                break
            why = f"the widest of {', '.join(map(str, self._widths()))} of which {enough} steps fit into "
            why += f"{duration(self._hours)} on this device"
            size = Size(width, size.patch, pace, peak, why, size.why_patch)
        return size

    def finished(self, size: Size, ends_by_clock: bool) -> tuple[list[Choice], Recipe]:
        """The choices of the recipe with its number of steps, and the recipe."""
        fitting = max(1, self.steps_in(size.pace))
        wanted, why = self._proposal.steps, self._proposal.why_steps
        expected = min(wanted, fitting)
        steps = wanted if ends_by_clock else expected
        if ends_by_clock:
            why += "; --max-hours shortens the schedule"
        elif fitting < wanted:
            why = f"what fits into {duration(self._hours)} on this device with the validation ({why})"
        choices = self._choices(size, steps, expected, why)
        return choices, self._recipe(choices)

    def steps_in(self, pace: Pace) -> int:
        """Steps that fit into the time, together with the validation."""
        return steps_that_fit(pace, 0, _steps_per_epoch(1), self._hours * 3600, 10**9)

    def _widths(self) -> tuple[int | None, ...]:
        return (self._given.channels,) if self._given.channels else self._form.widths or (None,)

    def _smaller(self, patch: Triple, used: float, room: float) -> Triple | None:
        if self._given.patch:
            return None
        return smaller_patch(patch, self._dataset.plan.shape_median, used, room)

    def _share(self, patch: Triple) -> float:
        share = 1.0
        for size, length in zip(patch, self._dataset.plan.shape_median, strict=True):
            share *= min(1.0, size / length)
        return share

    def _memory(self, width: int | None, patch: Triple) -> float:
        recipe = self._draft(width, patch)
        manifest = planned_run(recipe, self._dataset.plan, self._dataset.manifest, Path()).manifest
        return probe_step(recipe, manifest, patch, self._batch, self._place)

    def _measured(self, width: int | None, patch: Triple) -> tuple[float, Pace]:
        return self._measure(self._draft(width, patch))

    def _steps_on_device(self, recipe: Recipe) -> tuple[float, Pace]:
        run = planned_run(recipe, self._dataset.plan, self._dataset.manifest, Path(recipe.name))
        step, pace = measured_step(run, self._dataset, 0, self._place, Silence())
        return step.peak_gib, pace

    def _draft(self, width: int | None, patch: Triple) -> Recipe:
        size = Size(width, patch, Pace(1.0, 0.0, 0.0), 0.0)
        return self._recipe(self._choices(size, 1, 1, ""))

    def _recipe(self, choices: Sequence[Choice]) -> Recipe:
        return parse_recipe(commented_recipe([], choices), self._dataset.root.resolve().name, self._overrides)

    def _choices(self, size: Size, steps: int, expected: int, why_steps: str) -> list[Choice]:
        """All keys of the recipe, in their order in the file."""
        dataset, per_epoch = self._dataset, _steps_per_epoch(expected)
        batch = "as asked" if self._given.batch else ""
        if not batch:
            planned = dataset.plan.batch_size
            small = "small: more steps in the same time" if self._batch < planned else ""
            batch = "from the plan" if self._batch == planned else small
        tta = Choice("inference.tta", "none", "no averaging over mirror images: predictions take less time")
        if not self._on_cpu:
            tta = Choice("inference.tta", "mirror", "averages over mirror images, if there are any")
        keys = [
            Choice("dataset.prepared", str(dataset.root)),
            Choice("dataset.channels", dict(dataset.manifest.channels)),
            *self._network_choices(size),
            Choice("training.epochs", -(-steps // per_epoch), why_steps),
            Choice("training.steps_per_epoch", per_epoch),
            Choice("training.batch_size", self._batch, batch),
            Choice("training.patch_size", list(size.patch), size.why_patch),
            Choice(
                "training.optimizer",
                {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2},
                "AdamW and a cosine, as in all recipes for training within minutes",
            ),
            Choice("training.schedule", {"name": "cosine", "warmup_steps": 40}),
            Choice(
                "training.ema",
                0.98 if expected < _FEW_STEPS else 0.995,
                "moving average of the weights: steadier results",
            ),
        ]
        of_task, *rest = self._proposal.choices
        return [of_task, *_by_section([*keys, *rest, tta])]

    def _network_choices(self, size: Size) -> list[Choice]:
        choices = [Choice("network.name", self._network, self._why_network)]
        if size.width is not None:
            choices.append(Choice("network.channels", size.width, size.why_width))
        for number, (name, value) in enumerate(self._form.options.items()):
            choices.append(Choice(f"network.{name}", value, "" if number else self._form.why))
        spacing = self._dataset.plan.spacing_mm
        sizes = network_sizes(self._network, size.patch, spacing, self._given.axis_order)
        why = "the network is built for one patch"
        if "spacing_mm" in sizes:
            why = "strides and kernels follow nnU-Net's rule for this patch and spacing"
        for number, (option, value) in enumerate(sizes.items()):
            choices.append(Choice(f"network.{option}", value, "" if number else why))
        return choices


def _by_section(choices: Sequence[Choice]) -> list[Choice]:
    """The choices, those of a section together: dataset, network, training, inference."""
    order = ("dataset", "network", "training", "inference")
    return sorted(
        choices, key=lambda choice: (order.index(choice.key.partition(".")[0]), ".augment." in choice.key)
    )


def _steps_per_epoch(steps: int) -> int:
    return 50 if steps <= _FEW_STEPS else 250


def available_gib(fit: str | None, place: Workplace) -> float:
    """GiB that a step may take."""
    if fit is not None and fit != "auto":
        return parse_bytes(fit, "--fit") / 2**30 * _USABLE
    free = free_memory_bytes() if place.device.type == "cpu" else None
    return (free or device_memory(place.device)) / 2**30 * _USABLE


def _shown(patch: Sequence[int]) -> str:
    return "x".join(map(str, patch))
