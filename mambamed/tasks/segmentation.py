"""Segmentation: mutually exclusive labels by softmax, or overlapping regions by sigmoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.cases import IGNORE
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.metrics import parse_metric
from mambamed.preparation.store import PreparedCase
from mambamed.recipe import Recipe
from mambamed.report.contact_sheet import Marks
from mambamed.tasks.base import Task
from mambamed.tasks.cases import LabeledCase, PatchCase
from mambamed.tasks.losses import binary_cross_entropy, boundary_loss, cross_entropy, soft_dice
from mambamed.tasks.sides import mirror_order, mirrored_values, pairs_in_use

_UNKNOWN, _STRANGE = -1, -2  # in a target: the label "ignore"; a value that is no label of the dataset


class Segmentation(Task):
    """Mutually exclusive labels (softmax), or regions that may overlap (sigmoid).

    Attributes:
        by_regions: whether the outputs are regions.
        outputs: K: one per label, the background first, or one per region.
        names: the foreground labels or the regions, as scored.
        values: label value that output channel k writes into a label map.
        order: in which regions are written, later ones overwriting earlier ones; see `region_writing`.
    """

    verb = "predict"
    output = "predictions/{name}"
    score_name = "dice"
    higher_is_better = True
    labels_voxels = True

    def __init__(
        self, recipe: Recipe, manifest: DatasetManifest, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    ) -> None:
        if len(manifest.labels) < 2:
            raise DatasetError(f"{manifest.name}: has no foreground label: there is nothing to segment.")
        self._loss, self._spacing_mm = recipe.training.loss, spacing_mm
        self._network = recipe.network.name
        labels = {name: value for name, value in manifest.labels.items() if name != IGNORE}
        self._ignored = manifest.labels.get(IGNORE)
        self._label_values = sorted(labels.values())
        self.by_regions = bool(manifest.regions)
        if self.by_regions:
            self.names = tuple(manifest.regions)
            if manifest.region_values:
                self.order, self.values = tuple(range(len(self.names))), manifest.region_values
            else:
                self.order, self.values = region_writing(manifest.regions)
            members = [[v in manifest.regions[name] for name in self.names] for v in self._label_values]
        else:
            name_of = {value: name for name, value in labels.items()}
            self.names = tuple(name_of[value] for value in self._label_values if value != 0)
            self.values = tuple(self._label_values)
            self.order = tuple(range(len(self.values)))
            members = [[v == w for w in self._label_values if w != 0] for v in self._label_values]
        self.outputs = len(self.values)
        # (number of labels, number of names): whether a label belongs to a name.
        self._members = torch.tensor(members)
        self._mirror(recipe, manifest)
        lookup = np.full(max(manifest.labels.values()) + 1, _STRANGE, np.int64)
        lookup[self._label_values] = np.arange(len(self._label_values))
        if self._ignored is not None:
            lookup[self._ignored] = _UNKNOWN
        self._index_of = lookup
        self._weights = self._label_weights(recipe, labels)
        rules = recipe.evaluation
        main = parse_metric(rules.metrics[0], rules.hd95)
        self.main_metric, self.score_title = main.name, main.title

    def _label_weights(self, recipe: Recipe, labels: Mapping[str, int]) -> Tensor | None:
        """`(K,)`: weight of each output in the cross-entropy; None: equal weights."""
        given = self._loss.class_weights
        if not given:
            return None
        by_value = {value: name for name, value in labels.items()}
        known = list(self.names) if self.by_regions else [by_value[v] for v in self._label_values]
        if unknown := [name for name in given if name not in known]:
            raise RecipeError(
                f"recipe {recipe.name}: training.loss.class_weights names {', '.join(unknown)}; "
                f"the network answers {', '.join(known)}"
            )
        return torch.tensor([given.get(name, 1.0) for name in known])

    def _mirror(self, recipe: Recipe, manifest: DatasetManifest) -> None:
        """Outputs and label values that change places in an image mirrored across x."""
        pairs = pairs_in_use(recipe)
        if self.by_regions:
            self.mirror_order = mirror_order(self.names, pairs)
            partners = mirrored_values(self._label_values, manifest.regions, pairs)
        else:
            names = {value: name for name, value in manifest.labels.items()}
            self.mirror_order = mirror_order([names[value] for value in self.values], pairs)
            order = self.mirror_order or range(len(self.values))
            partners = {value: self.values[k] for value, k in zip(self.values, order, strict=True)}
        self._mirrored = {value: partner for value, partner in partners.items() if value != partner}

    def case(self, prepared: PreparedCase) -> PatchCase:
        """The case with its label map."""
        return LabeledCase(prepared, self._ignored, self._mirrored)

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """`(B, X, Y, Z)` label values -> int64 indices into the sorted label values, -1 for "ignore".

        Raises:
            DatasetError: a value is not a label of the dataset.
        """
        labels = reference.cpu().numpy()  # threads that read batches call this: numpy starts none of its own
        target = None
        if labels.min() >= 0 and labels.max() < len(self._index_of):
            target = np.take(self._index_of, labels)
        if target is None or (target == _STRANGE).any():
            strange = sorted(set(np.unique(labels).tolist()) - {*self._label_values, self._ignored})
            raise DatasetError(
                f"labels {strange} are not in the manifest {self._label_values}. Prepare the dataset again."
            )
        return torch.from_numpy(target).to(reference.device)

    def loss(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Soft Dice plus (binary) cross-entropy, as a weighted mean over the depths of deep supervision.

        Args:
            outputs: `(B, K, X, Y, Z)` logits, or a list of them, the finest first. Depth i has weight 2^-i or
                the recipe's `depth_weights`, normalized to a sum of 1; the target is resampled to its grid by
                the nearest voxel. The boundary loss is only that of the finest depth.
            target: `(B, X, Y, Z)` from `encode`; voxels of the label "ignore" do not count.

        Raises:
            RecipeError: the network is a classification network.

        Source:
            Isensee et al. 2021 (nnU-Net), "Training procedure": Dice + CE, weights halved at each depth.
            In contrast to nnU-Net, the coarsest depth counts too.
        """
        depths = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if depths[0].ndim != 5:
            raise RecipeError(
                f"network.name: {self._network} is a classification network; segmentation needs one with a "
                "dense output."
            )
        weights = depth_weights(self._loss.depth_weights, len(depths))
        total = torch.zeros((), device=depths[0].device)
        for logits, weight in zip(depths, weights, strict=True):
            here = nearest_labels(target, logits.shape[2:])
            if weight:
                total = total + weight * self._loss_at(logits.float(), here, finest=logits is depths[0])
        return total

    def _loss_at(self, logits: Tensor, target: Tensor, finest: bool) -> Tensor:
        wanted, reference = self._loss, self.masks(target)  # (B, names, X, Y, Z) bool
        known = None if self._ignored is None else (target >= 0)[:, None]
        weights = None if self._weights is None else self._weights.to(logits.device)
        log_probabilities = None if self.by_regions else functional.log_softmax(logits, dim=1)
        probabilities = torch.sigmoid(logits) if log_probabilities is None else log_probabilities[:, 1:].exp()
        total = torch.zeros((), device=logits.device)
        for share, gamma in ((wanted.cross_entropy, 0.0), (wanted.focal, wanted.focal_gamma)):
            if not share:
                continue
            if log_probabilities is None:
                entropy = binary_cross_entropy(
                    logits, reference, weights, wanted.label_smoothing, gamma, known
                )
            else:
                entropy = cross_entropy(log_probabilities, target, weights, wanted.label_smoothing, gamma)
            total = total + share * entropy
        if wanted.dice:
            dice = soft_dice(probabilities, reference, wanted.smooth, wanted.batch_dice, known)
            total = total + wanted.dice * (1 - dice.mean())
        if wanted.boundary and finest:
            boundary = boundary_loss(probabilities, reference, self._spacing_mm, known)
            total = total + wanted.boundary * boundary
        return total

    def masks(self, target: Tensor) -> Tensor:
        """`(B, X, Y, Z)` indices from `encode` -> `(B, names, X, Y, Z)` bool."""
        table = self._members.to(target.device)
        if self._ignored is None:
            return torch.stack([table[:, j][target] for j in range(table.shape[1])], dim=1)
        index, known = target.clamp(min=0), target >= 0
        return torch.stack([table[:, j][index] & known for j in range(table.shape[1])], dim=1)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, names, 3)` int64 voxel counts: true positives, false positives, false negatives."""
        predicted = logits > 0 if self.by_regions else self.masks(logits.argmax(1))
        reference = self.masks(target)
        if self._ignored is not None:
            predicted = predicted & (target >= 0)[:, None]
        both = (predicted & reference).flatten(2).sum(2)
        return torch.stack(
            [both, predicted.flatten(2).sum(2) - both, reference.flatten(2).sum(2) - both], dim=2
        )

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> Dice over all patches, from their `(patches, names, 3)` counts; NaN without any voxels."""
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

    def marks(self, target: Tensor, logits: Tensor) -> tuple[Marks, Marks] | None:
        """Label maps of a patch; regions are drawn as the labels that stand for them."""
        if not (target > 0).any():
            return None
        values = torch.tensor(self._label_values, dtype=torch.int32, device=target.device)
        if self.by_regions:
            found = torch.zeros_like(target, dtype=torch.int32)
            for k in self.order:
                found[logits[k] > 0] = self.values[k]
        else:
            found = values[logits.argmax(0)]
        reference = values[target.clamp(min=0)]
        return Marks(reference.cpu().numpy()), Marks(found.cpu().numpy())


def depth_weights(given: Sequence[float] | None, depths: int) -> list[float]:
    """Weights of the depths of deep supervision, the finest first, with a sum of 1.

    Default: each half of the previous one. Depths beyond the given weights have weight 0.

    >>> depth_weights(None, 2), depth_weights((3, 1), 3)
    ([0.666..., 0.333...], [0.75, 0.25, 0.0])
    """
    weights = [2.0**-i for i in range(depths)] if given is None else [*given, *[0.0] * depths][:depths]
    return [weight / sum(weights) for weight in weights]


def nearest_labels(target: Tensor, shape: Sequence[int]) -> Tensor:
    """`(B, X, Y, Z)` integers on a coarser grid of the same extent, by the nearest voxel.

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
    """How overlapping regions are written into one label map.

    Regions are written from the one with most labels to the one with fewest (manifest order among equals).
    Each writes the first of its labels that is in no later region. A voxel of ET is thus in TC and WT too.

    Returns:
        The order of writing, and for every region, in the manifest's order, the label that it writes.

    Raises:
        DatasetError: two regions cannot be distinguished in a label map.

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
