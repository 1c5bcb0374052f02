"""Segmentation: a label for every voxel by softmax, or overlapping regions by sigmoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.cases import DatasetManifest
from mambamed.errors import DatasetError
from mambamed.recipe import Recipe


class Segmentation:
    """Labels that exclude each other (softmax), or regions that may overlap (sigmoid).

    Attributes:
        by_regions: whether the network answers regions.
        outputs: K, channels of the network's output: a label each, the background first, or a region each.
        names: the foreground labels or the regions, as scored.
        values: label value that output channel k writes into a label map.
        order: order in which regions are written: a later one overwrites an earlier one, so that each lies
            inside what it is part of. `range(K)` for labels.
    """

    reads = "labels"
    score_name = "dice"
    higher_is_better = True
    mirror_order = None

    def __init__(
        self, recipe: Recipe, manifest: DatasetManifest, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    ) -> None:
        if len(manifest.labels) < 2:
            raise DatasetError(f"{manifest.name}: has no label but the background; nothing to segment")
        self._loss = recipe.training.loss
        self._label_values = sorted(manifest.labels.values())
        self.by_regions = bool(manifest.regions)
        if self.by_regions:
            self.names = tuple(manifest.regions)
            self.order, self.values = region_writing(manifest.regions)
            members = [[v in manifest.regions[name] for name in self.names] for v in self._label_values]
        else:
            name_of = {value: name for name, value in manifest.labels.items()}
            self.names = tuple(name_of[value] for value in self._label_values if value != 0)
            self.values = tuple(self._label_values)
            self.order = tuple(range(len(self.values)))
            members = [[v == w for w in self._label_values if w != 0] for v in self._label_values]
        self.outputs = len(self.values)
        # (number of labels, number of names): which names a label belongs to.
        self._members = torch.tensor(members)
        lookup = torch.full((max(self._label_values) + 1,), -1)
        lookup[self._label_values] = torch.arange(len(self._label_values))
        self._index_of = lookup

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """`(B, X, Y, Z)` label values -> `(B, X, Y, Z)` int64 indices into the sorted label values.

        Raises:
            DatasetError: a value is not a label of the dataset.
        """
        labels = reference.long()
        lookup = self._index_of.to(labels.device)
        low, high = (int(v) for v in torch.aminmax(labels))
        target = lookup[labels] if low >= 0 and high < len(lookup) else None
        if target is None or bool((target < 0).any()):
            strange = sorted(set(torch.unique(labels).tolist()) - set(self._label_values))
            raise DatasetError(
                f"labels {strange} are not in the manifest {self._label_values}; prepare again"
            )
        return target

    def loss(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Soft Dice plus (binary) cross-entropy, a weighted mean over depths of deep supervision.

        Args:
            outputs: `(B, K, X, Y, Z)` logits, or a list of them, the finest first. Depth i counts with
                weight 2^-i, normalized to a sum of 1; the target is brought to its grid by the nearest voxel.
            target: `(B, X, Y, Z)` from `encode`.

        Returns:
            Scalar, float32.

        Source:
            Isensee et al. 2021 (nnU-Net), "Training procedure": Dice + CE, weights halved with each depth.
            nnU-Net sets the coarsest weight to zero; here each depth that the network gives counts.
        """
        depths = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = [2.0**-i for i in range(len(depths))]
        total = torch.zeros((), device=depths[0].device)
        for logits, weight in zip(depths, weights, strict=True):
            here = nearest_labels(target, logits.shape[2:])
            total = total + weight / sum(weights) * self._loss_at(logits.float(), here)
        return total

    def _loss_at(self, logits: Tensor, target: Tensor) -> Tensor:
        reference = self._masks(target)  # (B, names, X, Y, Z) bool
        if self.by_regions:
            probabilities = torch.sigmoid(logits)
            entropy = functional.binary_cross_entropy_with_logits(logits, reference.to(logits.dtype))
        else:
            log_probabilities = functional.log_softmax(logits, dim=1)
            probabilities = log_probabilities[:, 1:].exp()
            entropy = functional.nll_loss(log_probabilities, target)
        dice = soft_dice(probabilities, reference, self._loss.smooth, self._loss.batch_dice)
        return self._loss.dice * (1 - dice.mean()) + self._loss.cross_entropy * entropy

    def _masks(self, target: Tensor) -> Tensor:
        """`(B, X, Y, Z)` indices -> `(B, names, X, Y, Z)` bool."""
        table = self._members.to(target.device)
        return torch.stack([table[:, j][target] for j in range(table.shape[1])], dim=1)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, names, 3)` int64 counts of voxels: in both, in the prediction only, in the reference only.

        Args:
            logits: `(B, K, X, Y, Z)`.
            target: `(B, X, Y, Z)` from `encode`.
        """
        predicted = logits > 0 if self.by_regions else self._masks(logits.argmax(1))
        reference = self._masks(target)
        both = (predicted & reference).flatten(2).sum(2)
        return torch.stack(
            [both, predicted.flatten(2).sum(2) - both, reference.flatten(2).sum(2) - both], dim=2
        )

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> Dice of the voxels of all patches taken together; NaN where there were none.

        Args:
            numbers: `(patches, names, 3)`, from `score`.
        """
        both, predicted, reference = numbers.sum(0).double().unbind(1)
        dice = 2 * both / (2 * both + predicted + reference)
        return dict(zip(self.names, dice.tolist(), strict=True))

    def decode(self, logits: np.ndarray | Tensor) -> np.ndarray:
        """`(K, X, Y, Z)` logits -> `(X, Y, Z)` label map, uint8 (uint16 for labels above 255).

        Labels: the largest logit. Regions: those with a positive logit, written in `order`.
        """
        scores = np.asarray(logits.detach().float().cpu() if isinstance(logits, Tensor) else logits)
        dtype = np.uint8 if max(self.values) < 256 else np.uint16
        if not self.by_regions:
            return np.asarray(self.values, dtype)[scores.argmax(0)]
        labels = np.zeros(scores.shape[1:], dtype)
        for k in self.order:
            labels[scores[k] > 0] = self.values[k]
        return labels


def soft_dice(probabilities: Tensor, reference: Tensor, smooth: float, batch: bool) -> Tensor:
    """Soft Dice of each structure.

    Args:
        probabilities: `(B, C, X, Y, Z)`.
        reference: `(B, C, X, Y, Z)` bool.
        smooth: added to numerator and denominator.
        batch: count over the batch as one large patch.

    Returns:
        `(B, C)`, or `(C,)` for `batch`: `(2 sum(p r) + s) / (sum(p) + sum(r) + s)`.

    Source:
        Milletari et al. 2016 (V-Net) with nnU-Net's sums instead of squares.
    """
    axes = (0, 2, 3, 4) if batch else (2, 3, 4)
    truth = reference.to(probabilities.dtype)
    both = (probabilities * truth).sum(axes)
    return (2 * both + smooth) / (probabilities.sum(axes) + truth.sum(axes) + smooth).clamp(min=1e-8)


def nearest_labels(target: Tensor, shape: Sequence[int]) -> Tensor:
    """`(B, X, Y, Z)` integers on a coarser grid of the same extent: the voxel nearest to each center.

    >>> nearest_labels(torch.arange(8).view(1, 8, 1, 1), (4, 1, 1)).flatten().tolist()
    [1, 3, 5, 7]
    """
    for axis, size in enumerate(shape, start=1):
        if size != target.shape[axis]:
            step = target.shape[axis] / size
            index = ((torch.arange(size, device=target.device) + 0.5) * step).long()
            target = target.index_select(axis, index.clamp(max=target.shape[axis] - 1))
    return target


def region_writing(regions: Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How overlapping regions become one label map.

    Regions are written from the largest to the smallest (most labels first, the manifest's order among
    equals); each writes the label that marks it out: the first of its labels that no region written later
    holds. A voxel of ET therefore always is one of TC and of WT too.

    Args:
        regions: name -> labels that it unites.

    Returns:
        The order of writing, and for every region, in the manifest's order, the label that it writes.

    Raises:
        DatasetError: two regions cannot be told apart in a label map.

    >>> region_writing({"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
    ((0, 1, 2), (2, 1, 3))
    """
    members = list(regions.values())
    order = sorted(range(len(members)), key=lambda k: -len(members[k]))
    values = [0] * len(members)
    for place, k in enumerate(order):
        later = {value for other in order[place + 1 :] for value in members[other]}
        own = [value for value in members[k] if value not in later]
        if not own:
            name = list(regions)[k]
            raise DatasetError(
                f"region {name} {list(members[k])}: no label is its own, so a label map cannot show it; "
                "drop it or split the labels"
            )
        values[k] = own[0]
    return tuple(order), tuple(values)
