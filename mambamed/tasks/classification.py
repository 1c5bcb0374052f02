"""Classification of whole cases by softmax."""

from __future__ import annotations

from collections import Counter
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
from mambamed.metrics.calibration import softmax
from mambamed.metrics.classification import auc
from mambamed.preparation.store import PreparedCase
from mambamed.recipe import Recipe
from mambamed.report.contact_sheet import Marks
from mambamed.tasks.base import Task
from mambamed.tasks.cases import ClassedCase, PatchCase
from mambamed.tasks.covariates import Wanted, covariate_count
from mambamed.tasks.sides import mirror_order, pairs_in_use


class Classification(Task):
    """Mutually exclusive classes, predicted from the centered patch of a case.

    Epochs are compared by AUC over all validation cases, which needs no threshold and weights rare classes
    like common ones.

    Attributes:
        classes: in the order of the outputs; of two, the second is positive.
        names: the scored classes: the positive one of two, else each against the rest.
    """

    verb = "classify"
    output = "predictions/{name}.csv"
    score_name = "auc"
    higher_is_better = True
    main_metric = "auc"
    score_title = "AUC"
    centered = True

    def __init__(
        self, recipe: Recipe, manifest: DatasetManifest, spacing_mm: Spacing = (1.0, 1.0, 1.0)
    ) -> None:
        if len(manifest.classes) < 2:
            raise DatasetError(f"{manifest.name}: has {len(manifest.classes)} classes; give two or more")
        self.classes = tuple(manifest.classes)
        self.outputs = len(self.classes)
        self.names = self.classes[1:] if self.outputs == 2 else self.classes
        self.mirror_order = mirror_order(self.classes, pairs_in_use(recipe))
        self._covariates = recipe.dataset.covariates
        self._network = recipe.network.name
        self._settings = recipe.training.loss
        self._weights: Tensor | None = None

    def case(self, prepared: PreparedCase) -> PatchCase | None:
        """The case with its class and covariates; None if the recipe leaves its class out."""
        if prepared.class_name not in self.classes:
            return None
        return ClassedCase(prepared, self.classes, self._covariates, self.mirror_order)

    def begin(self, training: Sequence[PatchCase], validation: Sequence[PatchCase]) -> None:
        """Check the classes of a fold, and weight them equally in the loss if the recipe says so.

        Raises:
            DatasetError: a class has no training case, all validation cases have the same class, or a
                covariate is unknown in all training cases.
        """
        counts = Counter(case.class_name for case in training)
        absent = [name for name in self.classes if not counts[name]]
        if absent:
            raise DatasetError(
                f"class {', '.join(absent)}: no training case. Add some, or remove it from dataset.classes."
            )
        if unknown := _unknown_in_all(self._covariates, training):
            raise DatasetError(
                f"covariate {', '.join(unknown)}: unknown in all training cases. Correct the name in "
                "dataset.covariates, or add the column to the table and prepare again."
            )
        if self._settings.class_balance:
            share = [len(training) / (self.outputs * counts[name]) for name in self.classes]
            self._weights = torch.tensor(share, dtype=torch.float32)
        if validation and len({case.class_name for case in validation}) < 2:
            raise DatasetError(
                f"validation: all {len(validation)} cases are of class {validation[0].class_name}. "
                "Split the dataset again, stratified by class."
            )

    def count(self, cases: Sequence[PatchCase], left_out: int) -> str:
        """Number of cases per class."""
        counts = Counter(case.class_name for case in cases)
        others = f"; {left_out} of other classes left out" if left_out else ""
        return ", ".join(f"{name} {counts[name]}" for name in self.classes) + others

    def encode(self, reference: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """`(B,)` class indices as int64."""
        return reference.long()

    def loss(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Mean cross-entropy with label smoothing and class weights, from `(B, K)` logits and `(B,)` classes.

        Raises:
            RecipeError: the network has a dense output.

        Source:
            Label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if logits.ndim != 2:
            raise RecipeError(
                f"network.name: {self._network} has a dense output; classification needs a "
                "classification network, e.g. nnmamba_classifier."
            )
        weights = None if self._weights is None else self._weights.to(logits.device)
        return functional.cross_entropy(
            logits.float(), target, weight=weights, label_smoothing=self._settings.label_smoothing
        )

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """`(B, names, 2)` float64: log-odds of the class against the others, and whether it is true."""
        certain = torch.log_softmax(logits.double(), dim=1)
        scored = range(self.outputs - len(self.names), self.outputs)
        others = [torch.cat([certain[:, :k], certain[:, k + 1 :]], dim=1) for k in scored]
        against = [
            certain[:, k] - torch.logsumexp(rest, dim=1) for k, rest in zip(scored, others, strict=True)
        ]
        of_it = target[:, None] == torch.tensor([*scored], device=target.device)
        return torch.stack([torch.stack(against, dim=1), of_it.double()], dim=2)

    def summarize(self, numbers: Tensor) -> dict[str, float]:
        """Name -> AUC, from `(cases, names, 2)` of `score`; NaN if all cases have the same class."""
        scores: dict[str, float] = {}
        for k, name in enumerate(self.names):
            likeness, of_it = numbers[:, k].numpy().T
            scores[name] = auc(of_it.astype(int), likeness)
        return scores

    def decode(self, logits: Tensor | NDArray) -> NDArray[np.float64]:
        """`(K,)` or `(n, K)` logits -> probabilities."""
        array: Any = logits.detach().double().cpu().numpy() if isinstance(logits, Tensor) else logits
        return softmax(np.asarray(array, float))

    def marks(self, target: Tensor, logits: Tensor) -> tuple[Marks, Marks]:
        """The class, and the one with the highest probability."""
        chances = self.decode(logits)
        likeliest = int(chances.argmax())
        found = f"{self.classes[likeliest]} ({chances[likeliest]:.2f})"
        return Marks(text=self.classes[int(target)]), Marks(text=found)


def centered(image: NDArray[np.float32], patch_size: Sequence[int]) -> NDArray[np.float32]:
    """The centered patch of a case, `(C, X, Y, Z)` -> `(C, *patch_size)`, padded with zeros.

    It equals the patch that training reads without augmentation.

    >>> centered(np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 5, 1, 1), (2, 3, 1))[0, :, :, 0].tolist()
    [[0.0, 2.0, 0.0], [0.0, 3.0, 0.0]]
    """
    starts = center_start(image.shape[1:], patch_size)
    patch = np.zeros((len(image), *patch_size), np.float32)
    into, of = [], []
    for start, size, length in zip(starts, patch_size, image.shape[1:], strict=True):
        low, high = max(start, 0), min(start + size, length)
        of.append(slice(low, high))
        into.append(slice(low - start, high - start))
    patch[(slice(None), *into)] = image[(slice(None), *of)]
    return patch


def center_start(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """First voxel of the centered patch; negative if the case is smaller."""
    spare = [size - patch for size, patch in zip(shape, patch_size, strict=True)]
    return tuple(s // 2 if s >= 0 else -(-s // 2) for s in spare)


def _unknown_in_all(wanted: Wanted, cases: Sequence[PatchCase]) -> list[str]:
    """The covariates that no case has."""
    unknown, start = [], 0
    for name, kind in wanted.items():
        stop = start + covariate_count({name: kind})
        if stop > start and all(np.isnan(case.covariates[start:stop]).all() for case in cases):
            unknown.append(name)
        start = stop
    return unknown
