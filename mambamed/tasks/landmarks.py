"""Landmark detection by heatmaps, decoded to subvoxel positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Spacing
from mambamed.errors import DatasetError, RecipeError
from mambamed.preparation.store import PreparedCase
from mambamed.recipe import Recipe
from mambamed.report.contact_sheet import Marks
from mambamed.schema_errors import some_of
from mambamed.tasks.base import Task
from mambamed.tasks.cases import PatchCase, PointedCase
from mambamed.tasks.heatmaps import Shape, heatmaps, is_inside, mean_over_heatmaps, strides_of
from mambamed.tasks.peaks import HeatmapForm, PeakFinder, Reading
from mambamed.tasks.sides import mirror_order, pairs_in_use

_READINGS: dict[str, Reading] = {"softmax": "softmax", "mse": "plain", "bce": "sigmoid"}
_OFFSET_REACH_SIGMAS = 2.0


class Landmarks(Task):
    """Named points: one heatmap per landmark, and offsets if the recipe asks for them.

    The target of a batch are its points. `loss` draws them on the grid of each output, so that deep
    supervision has exact targets instead of rescaled ones.

    Attributes:
        outputs: K, or 4 K with offsets.
        form: of the network's heatmaps, for `PeakFinder`.
    """

    verb = "landmarks"
    output = "landmarks/{name}"
    score_name = "error_mm"
    higher_is_better = False
    main_metric = "error_mm"
    score_title = "MRE mm"

    def __init__(
        self, recipe: Recipe, manifest: DatasetManifest, spacing_mm: Spacing = (1.0, 1.0, 1.0)
    ) -> None:
        if not manifest.landmarks:
            raise DatasetError(f"{manifest.name}: has no landmarks. Prepare a dataset with points.")
        settings = recipe.landmarks
        self.names = tuple(manifest.landmarks)
        self._settings, self._network = settings, recipe.network.name
        self._shape = Shape.of(settings.target, settings.sigma_mm, spacing_mm)
        self._spacing = np.array(spacing_mm, float)
        sigma = self._shape.sigma_voxels
        reading = _READINGS[settings.loss]
        self.form = HeatmapForm(len(self.names), reading, settings.decode, sigma, settings.offsets)
        self.outputs = self.form.channels
        self.averages_mirror_images = not settings.offsets  # offsets are not mirrored
        self.mirror_order = mirror_order(self.names, pairs_in_use(recipe))

    def case(self, prepared: PreparedCase) -> PatchCase | None:
        """The case with its points; None if no landmark of the recipe is annotated in it."""
        if not set(self.names) & set(prepared.points or ()):
            return None
        return PointedCase(prepared, self.names, self.mirror_order)

    def begin(self, training: Sequence[PatchCase], validation: Sequence[PatchCase]) -> None:
        """Check that every landmark has a position in some training case.

        Raises:
            DatasetError: one has none.
        """
        placed = _counted(training, len(self.names))[:, 0]
        if nowhere := [self.names[k] for k in np.flatnonzero(placed == 0) if training]:
            raise DatasetError(
                f"landmark {', '.join(nowhere)}: has no position in any training case. "
                "Annotate it, or remove it from dataset.landmarks."
            )

    def count(self, cases: Sequence[PatchCase], left_out: int) -> str:
        """Landmarks that some cases lack, or that are not annotated in all of them."""
        parts = [f"{left_out} cases without annotated landmarks left out"] if left_out else []
        for name, (placed, absent) in zip(self.names, _counted(cases, len(self.names)), strict=True):
            unknown = len(cases) - placed - absent
            if absent or unknown:
                parts.append(f"{name} {placed} (absent {absent}, not annotated {unknown})")
        return some_of(parts, most=10)

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """`(B, K, 3)` voxels, infinite if absent, NaN if not annotated."""
        return reference.float()

    def heatmaps(self, points: Tensor, grid: Sequence[int]) -> Tensor:
        """`(B, K, 3)` voxels -> target heatmaps `(B, K, X, Y, Z)` from 0 to 1."""
        return heatmaps(points, grid, self._shape)

    def loss(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """The recipe's loss, as a weighted mean over the depths of deep supervision.

        Args:
            outputs: `(B, outputs, X, Y, Z)`, or a list of them, the finest first. Depth i has weight 2^-i,
                normalized to a sum of 1.
            target: `(B, K, 3)` from `encode`; landmarks that are not annotated do not count.

        Raises:
            RecipeError: the network is a classification network.

        Source:
            mse: heatmap regression of the nnMamba authors, with a weighted peak. bce over the voxels with the
            highest loss: nnLandmark. softmax: after Nibali et al. 2018, arXiv:1801.07372 (DSNT), with an
            additional class "absent" with logit 0, so that absent landmarks have a target and the logits of
            neighboring windows can be averaged.
        """
        levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if levels[0].ndim != 5:
            raise RecipeError(
                f"network.name: {self._network} is a classification network; landmark detection needs one "
                "with a dense output."
            )
        grid = tuple(levels[0].shape[2:])
        weights = [2.0**-i for i in range(len(levels))]
        total = levels[0].new_zeros((), dtype=torch.float32)
        for level, weight in zip(levels, weights, strict=True):
            strides = strides_of(grid, level.shape[2:])
            total = total + weight / sum(weights) * self._loss_at(level.float(), target, strides, grid)
        return total

    def _loss_at(self, level: Tensor, target: Tensor, strides: Sequence[int], grid: Sequence[int]) -> Tensor:
        count, settings = len(self.names), self._settings
        answer = level[:, :count]
        if settings.loss == "softmax":
            found = mean_over_heatmaps(answer, target, self._shape, strides)
            each = _spatial_cross_entropy(answer, found, is_inside(target, grid))
        elif settings.loss == "bce":
            each = _worst_bce(answer, heatmaps(target, level.shape[2:], self._shape, strides), settings.top_k)
        else:
            drawn = heatmaps(target, level.shape[2:], self._shape, strides)
            each = ((1 + settings.peak_weight * drawn) * (answer - drawn) ** 2).flatten(2).mean(2)
        known = ~target.isnan().any(2)
        loss = (each * known).sum() / known.sum().clamp_min(1)
        if settings.offsets:
            loss = loss + self._offset_loss(level[:, count:], target, strides)
        return loss

    def _offset_loss(self, answer: Tensor, target: Tensor, strides: Sequence[int]) -> Tensor:
        """Smooth L1 of the offsets, in sigmas, within two sigmas of each point."""
        offsets = answer.unflatten(1, (len(self.names), 3))
        meant = []
        for axis, (stride, sigma) in enumerate(zip(strides, self.form.sigma_voxels, strict=True)):
            size = answer.shape[2 + axis]
            places = torch.arange(size, device=answer.device) * stride + (stride - 1) / 2
            view = [1] * 5
            view[2 + axis] = size
            to_point = (target[..., axis, None, None, None] - places.view(view)) / sigma
            meant.append(to_point.expand(*target.shape[:2], *answer.shape[2:]))
        to_points = torch.stack(meant, dim=2)
        near = (to_points.square().sum(2) <= _OFFSET_REACH_SIGMAS**2).unsqueeze(2)  # NaN and infinity are not
        finite = torch.nan_to_num(to_points, nan=0.0, posinf=0.0, neginf=0.0)
        difference = functional.smooth_l1_loss(offsets, finite, reduction="none")
        return (difference * near).sum() / (3 * near.sum()).clamp_min(1)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, K, 1)` float64: radial error in mm; NaN if the landmark is absent or outside the patch."""
        inside = is_inside(target, logits.shape[2:]).cpu().numpy()
        points, errors = target.double().cpu().numpy(), np.full((*inside.shape, 1), np.nan)
        for b, numbers in enumerate(logits):
            found, _ = self.decode(numbers)
            distance = np.linalg.norm((found - points[b]) * self._spacing, axis=1)
            errors[b, :, 0] = np.where(inside[b], distance, np.nan)
        return torch.from_numpy(errors)

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> mean radial error in mm, over the patches that contain the landmark; NaN without any."""
        means = torch.nanmean(numbers[..., 0].double(), dim=0).tolist()
        return dict(zip(self.names, means, strict=True))

    def decode(self, logits: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One case's logits `(outputs, X, Y, Z)` -> `(K, 3)` voxels and `(K,)` scores from 0 to 1.

        Every landmark has a position; whether it is present is decided by a threshold on its score.
        """
        array = logits.detach().float().cpu().numpy() if isinstance(logits, Tensor) else np.asarray(logits)
        finder = PeakFinder(self.form)
        finder.take(array.swapaxes(0, 1))
        return finder.found()

    def marks(self, target: Tensor, logits: Tensor) -> tuple[Marks, Marks] | None:
        """The landmarks that lie in a patch."""
        inside = is_inside(target[None], logits.shape[1:])[0].tolist()
        if not any(inside):
            return None
        found, _ = self.decode(logits)
        reference, prediction = (
            Marks(points={name: places[k] for k, name in enumerate(self.names) if inside[k]})
            for places in (target.cpu().numpy(), found)
        )
        return reference, prediction


def _worst_bce(answer: Tensor, drawn: Tensor, share: float) -> Tensor:
    """`(B, K)`: mean binary cross-entropy over the `share` of a heatmap's voxels with the highest loss."""
    each = functional.binary_cross_entropy_with_logits(answer, drawn, reduction="none").flatten(2)
    return each.topk(max(1, math.ceil(share * each.shape[2])), dim=2, sorted=False).values.mean(2)


def _spatial_cross_entropy(answer: Tensor, found: Tensor, inside: Tensor) -> Tensor:
    """`(B, K)`: cross-entropy over the voxels and the class "absent", whose logit is 0.

    Args:
        answer: `(B, K, X, Y, Z)` logits.
        found: `(B, K)` mean of the logits over the target.
        inside: `(B, K)` whether the landmark is present.
    """
    every = torch.logsumexp(answer.flatten(2), dim=2)
    return torch.logaddexp(every, torch.zeros_like(every)) - torch.where(inside, found, 0)


def _counted(cases: Sequence[PatchCase], landmarks: int) -> NDArray[np.int64]:
    """`(K, 2)`: in how many cases each landmark has a position, and in how many it is absent."""
    points = np.array([case.points for case in cases if isinstance(case, PointedCase)], float)
    points = points.reshape(len(points), landmarks, 3)
    return np.stack([np.isfinite(points).all(2).sum(0), np.isinf(points).any(2).sum(0)], axis=1)
