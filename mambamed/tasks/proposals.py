"""What each task proposes for a dataset without a recipe of its own; see `training.general`. No torch.

`NETWORKS_OF_TASKS` decides which network a general recipe has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mambamed.cores import cores
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Triple
from mambamed.errors import RecipeError
from mambamed.preparation.store import PreparedDataset
from mambamed.recipe import Choice, Recipe
from mambamed.tasks.covariates_found import covariates_found
from mambamed.tasks.sides import decided_mirroring
from mambamed.terminal import command_line

# Task -> network, and where it was found to be the best within minutes of training on a CPU.
NETWORKS_OF_TASKS = {
    "segmentation": ("nnunet", "best Dice for the same CPU time in docs/benchmarks.md"),
    "landmarks": ("nnmamba", "the network of the landmark results in docs/landmarks.md"),
    "classification": ("nnmamba_classifier", "the network of the results in docs/classification.md"),
}


@dataclass(frozen=True)
class Form:
    """How a general recipe sets up a network.

    Attributes:
        widths: to choose from, the narrowest first.
        options: further options, and why.
        cpu_us: CPU-microseconds of a training step per voxel with the narrowest width; 0 if not measured.
    """

    widths: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    cpu_us: float = 0.0


FORMS = {
    # 15 CPU-minutes for 4801 steps of 2 x 40x56x40 voxels (docs/benchmarks.md)
    "nnunet": Form((8, 16, 32), cpu_us=1.05),
    "nnunet_resenc": Form((8, 16, 32)),
    "hybrid_unet": Form((8, 16, 32)),
    "umamba": Form((8, 16, 32)),
    "resunet": Form((8, 16, 32)),
    "nnmamba": Form(
        (16, 32),
        {"head": "wide", "norm": "instance"},
        "the wide head learns faster; instance norm suits small batches",
        cpu_us=1.5,  # 15 CPU-minutes for 2036 steps of 2 x 48x64x48 voxels (docs/benchmarks.md)
    ),
    "nnmamba_classifier": Form((16,), {"dropout": 0.2}),
}

_EDGE = 8  # voxels to a multiple of which a patch is rounded up


@dataclass(frozen=True)
class Proposal:
    """What a task proposes for a prepared dataset.

    Attributes:
        task: its name.
        patch: to start from; it is reduced if memory or time do not suffice.
        whole: whether the patch should hold a whole case.
        batch: patches per step, on a CPU and on a GPU.
        steps: that the number and size of the training cases suggest, with the batch of the CPU.
        why_steps: the reason for that number.
        choices: further keys of the recipe.
    """

    task: str
    patch: Triple
    whole: bool
    batch: tuple[int, int]
    steps: int
    why_steps: str
    choices: tuple[Choice, ...]


def tasks_of(manifest: DatasetManifest) -> list[str]:
    """The tasks that a dataset has references for.

    >>> tasks_of(DatasetManifest(name="a", channels={"x": "mri"}, classes=("healthy", "ill")))
    ['classification']
    """
    answers = {
        "segmentation": manifest.foreground,
        "landmarks": manifest.landmarks,
        "classification": manifest.classes,
    }
    return [task for task, names in answers.items() if names]


def proposal_for(dataset: PreparedDataset, task: str | None = None) -> Proposal:
    """What a task proposes for a dataset; without `task`, the first of `tasks_of`.

    Raises:
        RecipeError: the dataset has no references for the task.
    """
    known = tasks_of(dataset.manifest)
    if not known:
        raise RecipeError(
            f"{dataset.root}: has no labels, landmarks or classes to learn from. Prepare a dataset with some."
        )
    chosen = task or known[0]
    if chosen not in known:
        raise RecipeError(
            f"{dataset.root}: has nothing to learn {chosen} from; it has what {' and '.join(known)} needs. "
            "Choose another task."
        )
    others = [name for name in known if name != chosen]
    why = f"the dataset also serves {' and '.join(others)}" if others else ""
    proposal = _PROPOSALS[chosen](dataset)
    return replace(proposal, task=chosen, choices=(Choice("task", chosen, why), *proposal.choices))


def estimate(root: Path) -> str:
    """A line about the length of a training on a prepared dataset, without measuring; empty if unknown."""
    dataset = PreparedDataset.open(root)
    if not tasks_of(dataset.manifest):
        return ""
    proposal = proposal_for(dataset)
    voxels = proposal.steps * proposal.batch[0] * math.prod(proposal.patch)
    hours = FORMS[NETWORKS_OF_TASKS[proposal.task][0]].cpu_us * 1e-6 * voxels / cores() / 3600
    time = f", about {hours:.2g} h on {cores()} CPU cores and much less on a GPU" if hours else ""
    command = command_line("train", "-d", root, "--dry-run")
    return (
        f"training: at most {proposal.steps} steps of {proposal.batch[0]} patches of "
        f"{'x'.join(map(str, proposal.patch))}{time}; {command} measures it here, "
        "--max-hours shortens it"
    )


def _segmentation(dataset: PreparedDataset) -> Proposal:
    manifest, plan = dataset.manifest, dataset.plan
    batch = (2, plan.batch_size)
    if manifest.regions:
        outputs = Choice(
            "dataset.regions",
            {name: list(members) for name, members in manifest.regions.items()},
            "regions may overlap: one sigmoid output each, binary cross-entropy and Dice",
        )
        outputs_of = [Choice("dataset.labels", dict(manifest.labels)), outputs]
    else:
        why = "labels exclude each other: softmax, cross-entropy and Dice"
        outputs_of = [Choice("dataset.labels", dict(manifest.labels), why)]
    pairs, mirror = _mirror("segmentation", manifest)
    patches = max(1.0, math.prod(plan.shape_median) / math.prod(plan.patch_size))
    steps, why_steps = _steps(dataset, patches, visits=200, batch=batch[0], least=5000, most=250_000)
    return Proposal(
        task="",
        patch=plan.patch_size,
        whole=False,
        batch=batch,
        steps=steps,
        why_steps=why_steps,
        choices=(*outputs_of, *pairs, mirror),
    )


def _landmarks(dataset: PreparedDataset) -> Proposal:
    manifest, plan = dataset.manifest, dataset.plan
    choices = [Choice("dataset.landmarks", list(manifest.landmarks))]
    pairs, mirror = _mirror("landmarks", manifest)
    if not pairs and mirror.value:
        why = "no mirror images, because no name says left or right; see dataset.mirror_pairs"
        mirror = Choice("training.augment.mirror", [], why)
    choices += pairs
    whole = all(p >= s for p, s in zip(plan.patch_size, plan.shape_median, strict=True))
    near = Choice(
        "training.foreground",
        0.0 if whole else 0.5,
        "a patch holds a whole case" if whole else "half of the patches are centered on a landmark",
    )
    steps, why_steps = _steps(dataset, 1.0, visits=60, batch=2, least=3000, most=50_000)
    return Proposal("", plan.patch_size, False, (2, 2), steps, why_steps, (*choices, mirror, near))


def _classification(dataset: PreparedDataset) -> Proposal:
    manifest, plan = dataset.manifest, dataset.plan
    x, y, z = (-(-n // _EDGE) * _EDGE for n in plan.shape_median)
    batch = max(4, plan.batch_size)
    choices = [Choice("dataset.classes", list(manifest.classes), "each counts equally in the loss")]
    known, why = covariates_found([dataset.case(case_id) for case_id in dataset.case_ids])
    pairs, mirror = _mirror("classification", manifest, known)
    choices += pairs
    if known or why:
        choices.append(Choice("dataset.covariates", known, why))
    gentle = "sizes and intensities may distinguish the classes: weaker augmentation than for segmentation"
    choices += [
        mirror,
        Choice("training.augment.rotate", 0.5, gentle),
        *(Choice(f"training.augment.{name}", value) for name, value in _GENTLE.items()),
    ]
    steps, why_steps = _steps(dataset, 1.0, visits=40, batch=batch, least=500, most=20_000)
    return Proposal("", (x, y, z), True, (batch, batch), steps, why_steps, tuple(choices))


_PROPOSALS: dict[str, Callable[[PreparedDataset], Proposal]] = {
    "segmentation": _segmentation,
    "landmarks": _landmarks,
    "classification": _classification,
}
_GENTLE = {
    "rotate_degrees": 15,
    "scale": 0,
    "noise": 0.2,
    "noise_std": 0.1,
    "blur": 0,
    "brightness": 0.2,
    "contrast": 0.2,
    "low_resolution": 0,
}


def _mirror(
    task: str, manifest: DatasetManifest, covariates: Mapping[str, Any] | None = None
) -> tuple[list[Choice], Choice]:
    """Pairs, if there are any, and the axes of mirror images: x, unless a name of a side has no partner."""
    asked = {
        "task": task,
        "name": manifest.name,
        "dataset": {"covariates": covariates or {}},
        "network": {"name": NETWORKS_OF_TASKS[task][0]},
        "training": {"augment": {"mirror": ["x"]}},
    }
    recipe, fault = decided_mirroring(Recipe.model_validate(asked), manifest)
    if fault:
        return [], Choice("training.augment.mirror", [], f"no mirror images: {fault}")
    if not (pairs := [list(pair) for pair in recipe.dataset.mirror_pairs]):
        return [], Choice("training.augment.mirror", ["x"], "left and right: no name says left or right")
    why = "names that differ only in left and right: mirrored images swap them"
    return [Choice("dataset.mirror_pairs", pairs, why)], Choice(
        "training.augment.mirror", ["x"], "left and right: the pairs are swapped"
    )


def _steps(
    dataset: PreparedDataset, patches: float, *, visits: int, batch: int, least: int, most: int
) -> tuple[int, str]:
    """Number of steps after which each part of each training case was seen `visits` times, within limits."""
    cases = len(dataset.splits[0]["train"])
    steps = round(cases * patches * visits / batch)
    seen = f"{cases} training cases, each part of each about {visits} times"
    if steps < least:
        return least, f"at least {least}; {seen} would be {steps}"
    return (steps, seen) if steps <= most else (most, f"at most {most}; {seen} would be {steps}")
