"""Make the plan from the findings about all cases and the recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Ct, Normalization, Plan, Spacing, Triple, per_case
from mambamed.preparation.examine import Examined
from mambamed.preparation.fingerprint import Histogram
from mambamed.preparation.resample import resampled_shape
from mambamed.recipe import Preprocess

VOXEL_BUDGET = 128**3
_ANISOTROPIC = 3.0
_MUCH_REMOVED = 0.75
_SMALL_PATCH = 64**3


def make_plan(manifest: DatasetManifest, cases: Sequence[Examined], settings: Preprocess) -> Plan:
    """Plan a dataset.

    Spacing: from the recipe, else the median with nnU-Net's rule for anisotropic datasets. Patch: the median
    prepared shape, each axis rounded up to a multiple of 8; while it exceeds 128^3 voxels, the longest axis
    is reduced to the next multiple of 16. Batch: 2, or up to 8 if the patch is small.

    Source: Isensee et al. 2021 (nnU-Net), "Inferred parameters", for spacing and normalization. In contrast
    to nnU-Net, the patch does not depend on the memory of a network.
    """
    spacing = planned_spacing(cases, settings)
    keep = settings.spacing == "keep"
    prepared = [
        case.shape_cropped if keep else resampled_shape(case.shape_cropped, case.spacing_mm, spacing)
        for case in cases
    ]
    a, b, c = (round(float(v)) for v in np.median(prepared, axis=0))
    patch = patch_size_for((a, b, c))
    return Plan(
        spacing_mm=spacing,
        shape_median=(a, b, c),
        patch_size=patch,
        batch_size=int(np.clip(2 * _SMALL_PATCH // np.prod(patch), 2, 8)),
        crop=settings.crop,
        normalization=tuple(_normalizations(manifest, cases, settings)),
        keep_spacing=keep,
    )


def planned_spacing(cases: Sequence[Examined], settings: Preprocess) -> Spacing:
    """The spacing of the recipe, else that of `target_spacing`."""
    if isinstance(settings.spacing, tuple):
        return settings.spacing
    return target_spacing(
        np.array([case.spacing_mm for case in cases]), np.array([case.shape_cropped for case in cases])
    )


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> tuple[float, float, float]:
    """nnU-Net's target spacing.

    Args:
        spacings: `(n, 3)` mm.
        shapes: `(n, 3)` voxels.

    Returns: The median of each axis. If one axis is more than three times as coarse as the others and has
    fewer than a third of their voxels: its 10th percentile, but not finer than the others.

    >>> target_spacing(np.array([[1, 1, 5.0], [1, 1, 5.0]]), np.array([[90, 90, 20], [90, 90, 20]]))
    (1.0, 1.0, 5.0)
    """
    target, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    axis = int(np.argmax(target))
    others = [i for i in range(3) if i != axis]
    if target[axis] > _ANISOTROPIC * max(target[others]) and size[axis] * _ANISOTROPIC < min(size[others]):
        finer = float(np.percentile(spacings[:, axis], 10))
        target[axis] = max(finer, max(target[others]) + 1e-5)
    return float(target[0]), float(target[1]), float(target[2])


def patch_size_for(shape: Triple) -> Triple:
    """The patch for a median prepared shape; see `make_plan`.

    >>> patch_size_for((35, 50, 35)), patch_size_for((138, 172, 140)), patch_size_for((512, 512, 40))
    ((40, 56, 40), (128, 128, 128), (224, 224, 40))
    """
    longest_side = VOXEL_BUDGET // 16**2  # with the shortest other axes
    patch = [min(longest_side, max(16, -(-n // 8) * 8)) for n in shape]
    while math.prod(patch) > VOXEL_BUDGET:
        longest = int(np.argmax(patch))
        patch[longest] = (patch[longest] - 1) // 16 * 16
    return patch[0], patch[1], patch[2]


def _normalizations(
    manifest: DatasetManifest, cases: Sequence[Examined], settings: Preprocess
) -> list[Normalization]:
    much_removed = float(np.median([case.kept for case in cases])) < _MUCH_REMOVED
    zscore = "zscore_nonzero" if much_removed and settings.crop == "nonzero" else "zscore"
    plans: list[Normalization] = []
    for number, kind in enumerate(manifest.channels.values()):
        scheme = settings.normalize
        if scheme == "auto":
            scheme = "ct" if kind == "ct" else zscore
        if scheme != "ct":
            plans.append(per_case(scheme))
            continue
        seen = Histogram.total(case.foreground[number] for case in cases if number in case.foreground)
        if not seen.voxels:
            # No foreground: a window for fat, soft tissue and contrast agent, in Hounsfield units.
            plans.append(Ct(mean=0.0, std=200.0, low=-1000.0, high=1000.0))
            continue
        mean, std = seen.mean_and_std()  # before clipping, like nnU-Net
        low, high = seen.quantile(0.005), seen.quantile(0.995)
        plans.append(Ct(mean=mean, std=std, low=low, high=high))
    return plans
