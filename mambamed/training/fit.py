"""Patch and batch size for a memory budget: measured by probe steps of the recipe's own network.

The memory of a convolution network follows from a formula, that of a network with scans does not. So a step
is taken on the meta device, where tensors have no content, and the memory of all live tensors is counted; on
a CUDA device the choice is then tried in real training steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, Triple
from mambamed.errors import RecipeError
from mambamed.memory import is_out_of_memory, memory_bytes
from mambamed.networks import network_class, options_of
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Progress, Silence
from mambamed.recipe import Recipe
from mambamed.run.folder import Run
from mambamed.run.model import input_channels
from mambamed.run.workplace import Workplace
from mambamed.training.estimate import GIB, TARGET_BYTES, step_gib, weights_gib, without_numbers
from mambamed.training.imagined import ImaginedDataset
from mambamed.training.launch import started
from mambamed.training.session import Session
from mambamed.training.step import Steps

_USABLE = 0.9  # of the budget; the rest is for workspaces and fragmentation
_STEP = 16  # voxels by which an axis is shortened
_LEAST = 32
_LEAST_BATCH = 2
_MOST_BATCH = 16
_STEPS = 2  # of a probe on the device

Probe = Callable[[Recipe, Triple, int], float]


def fit_recipe(
    recipe: Recipe,
    plan: Plan,
    manifest: DatasetManifest,
    budget: int,
    place: Workplace,
    progress: Progress,
    probe: Probe | None = None,
) -> Recipe:
    """Choose the largest patch, then the largest batch, whose training step fits; RecipeError if none does.

    The patch begins as the median prepared case, each axis rounded up to a multiple of 16, and is shortened
    by 16 voxels at a time along the axis that is longest relative to the median (Isensee et al. 2021) until
    two patches fit. Batches larger than two are only tried with a patch that covers the whole median case.

    Args:
        recipe: its patch and batch size are kept if given.
        plan: of the prepared dataset.
        manifest: reconciled with the recipe.
        budget: bytes.
        progress: receives a line about the choice.
        probe: `(recipe, patch, batch) -> GiB`; default: a step on the meta device.
    """
    measure = probe or (lambda asked, patch, batch: probe_step(asked, manifest, patch, batch, place))
    gib = budget / GIB * _USABLE
    median = plan.shape_median
    fixed = recipe.training.patch_size
    x, y, z = (max(_LEAST, -(-n // _STEP) * _STEP) for n in median)
    patch: Triple = fixed or (x, y, z)
    batch = recipe.training.batch_size or _LEAST_BATCH
    whole = patch
    while True:
        planned = with_patch(recipe, plan, patch, batch)
        used = measure(planned, patch, batch)
        if used <= gib:
            break
        if fixed or (smaller := smaller_patch(patch, median, used, gib)) is None:
            raise RecipeError(
                f"--fit: {batch} patches of {_shown(patch)} take {used:.1f} GiB, {gib:.1f} are to be had; "
                "give more memory, or a smaller network or training.batch_size"
            )
        patch = smaller
    if recipe.training.batch_size is None and patch == whole:
        # Memory is proportional to the batch, except for the weights: the probe decides.
        while batch < _MOST_BATCH:
            larger = with_patch(recipe, plan, patch, batch + 1)
            more = measure(larger, patch, batch + 1)
            if more > gib:
                break
            planned, used, batch = larger, more, batch + 1
    progress.say(f"fit: {batch} patches of {_shown(patch)} take {used:.1f} of {budget / GIB:.1f} GiB")
    return planned


def device_memory(device: torch.device) -> int:
    """Bytes of the device that are free now (CUDA), or of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()


def with_patch(recipe: Recipe, plan: Plan, patch: Triple, batch: int) -> Recipe:
    """The recipe with this patch and batch in `training.patch_size` and `training.batch_size`.

    The network gets its `network_sizes`, except that a recipe that gives both patches keeps them, and one
    that lists stages, strides or kernels keeps these.
    """
    training = recipe.training.model_copy(update={"patch_size": patch, "batch_size": batch})
    changes: dict[str, Any] = {"training": training}
    own = recipe.network.options
    sizes = network_sizes(recipe.network.name, patch, plan.spacing_mm, own.get("axis_order"))
    if own.keys() & {"stages", "strides", "kernels"}:
        sizes = {key: value for key, value in sizes.items() if key in own}
    if recipe.training.patch_size is not None and "spacing_mm" not in sizes and "patch_size" in own:
        sizes = {}
    if "spacing_mm" in own:
        sizes.pop("spacing_mm", None)
    if sizes:
        changes["network"] = type(recipe.network).model_validate(recipe.network.model_dump() | sizes)
    return recipe.model_copy(update=changes)


def network_sizes(
    name: str, patch: Triple, spacing_mm: Sequence[float], axis_order: object = None
) -> dict[str, list]:
    """Options of a network that follow from the patch of the training, in the order of its own axes.

    `patch_size`, for networks with learned positions or windows; also `spacing_mm` for those whose strides
    and kernels follow nnU-Net's rule for anisotropic grids.
    """
    known, network = options_of(name), network_class(name)
    permuted = getattr(network, "sizes_in_own_order", False) and axis_order == "zyx"
    turn = -1 if permuted else 1
    sizes = {
        "patch_size": list(patch[::turn]),
        "spacing_mm": [round(edge, 4) for edge in spacing_mm[::turn]],
    }
    return {key: value for key, value in sizes.items() if key in known}


def probe_step(
    recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int, place: Workplace
) -> float:
    """Peak memory of a training step, GiB: on the meta device, and on a CUDA device also in a real step.

    Infinite if the CUDA device has too little memory.
    """
    estimate = step_gib(recipe, manifest, patch, batch, place.precision)
    if place.device.type != "cuda":
        return estimate
    voxels = batch * math.prod(patch) / GIB
    ahead = (4 * input_channels(recipe, manifest) + TARGET_BYTES) * voxels  # the next batch, copied meanwhile
    buckets = started().world > 1  # of gradients
    shared = weights_gib(without_numbers(recipe, manifest)) if buckets else 0.0
    return max(estimate * 0.5, real_step_gib(recipe, manifest, patch, batch, place)) + ahead + shared


def real_step_gib(
    recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int, place: Workplace
) -> float:
    """Peak memory of training steps on random numbers, GiB; NaN if the device does not count it.

    The steps are those of the training loop: with loss, targets, optimizer, moving average and clipping. Two
    steps are taken, because the first one makes the optimizer's state. Infinite if memory runs out.
    """
    counted = place.device.type == "cuda"
    before = 0
    if counted:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place.device)
        before = torch.cuda.memory_reserved(place.device)
    fits = _takes_steps(recipe, manifest, patch, batch, place)
    if not counted:
        return float("nan" if fits else "inf")
    peak = torch.cuda.max_memory_reserved(place.device)
    torch.cuda.empty_cache()
    return (peak - before) / GIB if fits else float("inf")


def _takes_steps(
    recipe: Recipe, manifest: DatasetManifest, patch: Triple, batch: int, place: Workplace
) -> bool:
    """Take training steps; whether memory sufficed."""
    training = recipe.training.model_copy(update={"patch_size": patch, "batch_size": batch})
    recipe = recipe.model_copy(update={"training": training})
    try:
        dataset = ImaginedDataset(recipe, manifest)
        run = Run(dataset.root, recipe, dataset.plan, manifest)
        session = Session(run, cast(PreparedDataset, dataset), 0, place, Silence())
        state, data = session.fresh_state(), session.first_batch()
        steps = Steps(state, session.task, place, training)
        for number in range(_STEPS):
            steps.take(itertools.repeat(data), number).read()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def smaller_patch(patch: Triple, median: Sequence[int], used: float, gib: float) -> Triple | None:
    """The next patch to try: shortened as often as the probe's memory, assumed proportional, requires."""
    sizes = list(patch)
    goal = np.prod(patch) * max(0.1, min(0.97, gib / used if np.isfinite(used) else 0.6))
    while np.prod(sizes) > goal:
        open_axes = [axis for axis in range(3) if sizes[axis] > _LEAST]
        if not open_axes:
            break
        axis = max(open_axes, key=lambda a: (sizes[a] / median[a], sizes[a]))
        sizes[axis] = max(_LEAST, sizes[axis] - _STEP)
    new = (sizes[0], sizes[1], sizes[2])
    return new if new != tuple(patch) else None


def _shown(patch: Sequence[int]) -> str:
    return "x".join(str(n) for n in patch)
