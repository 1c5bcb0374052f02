"""How uncertain networks are about each voxel: entropy, and disagreement of folds, mirrors and windows.

Logits z of several passes are averaged; their softmax is q. The mean of KL(q || p) over the passes' own
softmax p equals mean A(z) - A(mean z), A being the logarithm of the sum of exponentials. So A is averaged
like a further channel, and no pass has to be kept. For regions, A is softplus, one per region.

Source:
    Wood et al. 2023, J. Mach. Learn. Res. 24:359: for cross-entropy, this is the diversity of an ensemble
    whose members are combined by a normalized geometric mean, i.e. by averaging logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import VoxelValues, softmax_of


@dataclass(frozen=True)
class LogPartition:
    """Further channels of a network's output, averaged over passes: A of logits divided by a temperature.

    >>> LogPartition(1.0, by_regions=False)(torch.zeros(1, 2, 1, 1, 1)).item()  # log(1 + 1)
    0.693...
    """

    temperature: float
    by_regions: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """`(B, K, X, Y, Z)` logits -> `(B, 1, X, Y, Z)`, or `(B, K, X, Y, Z)` for regions."""
        scaled = logits.float() / self.temperature
        return functional.softplus(scaled) if self.by_regions else torch.logsumexp(scaled, 1, keepdim=True)


@dataclass(frozen=True)
class UncertaintyArrays:
    """What is known of every voxel of a file, `(X, Y, Z)` each.

    Attributes:
        chances: `(K, X, Y, Z)`: calibrated probability of each output.
        entropy: of these, from 0 (certain) to 1 (all labels equally likely; of regions, the mean over them).
        disagreement: see above, in nats; of regions, the mean over them.
    """

    chances: NDArray[np.float16]
    entropy: NDArray[np.float32]
    disagreement: NDArray[np.float32]

    def values(self, task: Segmentation, temperature: float) -> VoxelValues:
        """How `labels_of_slabs` fills the arrays, from logits followed by the channels of `LogPartition`."""
        count, regions = task.outputs, bool(task.by_regions)
        largest = math.log(2 if regions else count)

        def of(logits: NDArray[np.float32]) -> Sequence[NDArray]:
            scaled, averaged = logits[:count] / temperature, logits[count:]
            if regions:
                chances = expit(scaled)
                # log of a sigmoid and of its complement
                sure, unsure = np.logaddexp(0, -scaled), np.logaddexp(0, scaled)
                entropy = (chances * sure + (1 - chances) * unsure).mean(0)
                apart = (averaged - unsure).mean(0)
            else:
                chances = softmax_of(scaled)
                whole = np.logaddexp.reduce(scaled, axis=0)
                entropy = whole - (chances * scaled).sum(0)
                apart = averaged[0] - whole
            return [*chances, np.clip(entropy / largest, 0, 1), np.maximum(apart, 0)]

        background = [float(not regions and value == 0) for value in task.values]
        arrays = [*self.chances, self.entropy, self.disagreement]
        return VoxelValues(arrays, [*background, 0.0, 0.0], of)


def uncertainty_of(
    arrays: UncertaintyArrays, labels: NDArray, task: Segmentation, members: Sequence[Sequence[int]]
) -> list[dict[str, float | None]]:
    """Numbers of every structure of a case.

    Args:
        labels: `(X, Y, Z)`: the final mask.
        members: labels of each of `task.names`.

    Returns:
        Per structure `expected_dice`: Dice of the mask if voxels belong to the structure with the calibrated
        probability, independently, as a ratio of expectations; and means over the predicted structure of
        `entropy` and `disagreement`. None for a structure that is not predicted.

    Source:
        The expectation is that of the soft Dice (Milletari et al. 2016), without a reference.
    """
    first = 0 if task.by_regions else 1
    found: list[dict[str, float | None]] = []
    for number, own in enumerate(members):
        inside = likely = size = entropy = apart = 0.0
        for plane in range(labels.shape[2]):  # avoids copies of the volume
            mask = np.isin(labels[:, :, plane], own)
            chances = arrays.chances[first + number, :, :, plane].astype(np.float64)
            likely += chances.sum()
            inside += chances[mask].sum()
            size += np.count_nonzero(mask)
            entropy += arrays.entropy[:, :, plane][mask].sum(dtype=np.float64)
            apart += arrays.disagreement[:, :, plane][mask].sum(dtype=np.float64)
        if not size:
            found.append({"expected_dice": None, "entropy": None, "disagreement": None})
            continue
        found.append(
            {
                "expected_dice": float(2 * inside / (likely + size)),
                "entropy": float(entropy / size),
                "disagreement": float(apart / size),
            }
        )
    return found
