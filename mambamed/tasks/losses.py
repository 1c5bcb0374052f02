"""Losses of segmentation, each over the voxels whose label is known.

All take `(B, C, X, Y, Z)` and a mask `known`, `(B, 1, X, Y, Z)` bool, or None where every voxel is: voxels of
the label "ignore" count for nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional


def soft_dice(
    probabilities: Tensor, reference: Tensor, smooth: float, batch: bool, known: Tensor | None = None
) -> Tensor:
    """Soft Dice of each structure.

    Args:
        probabilities: `(B, C, X, Y, Z)`.
        reference: `(B, C, X, Y, Z)` bool.
        smooth: added to numerator and denominator.
        batch: count over the batch as one large patch.
        known: voxels that count.

    Returns:
        `(B, C)`, or `(C,)` for `batch`: `(2 sum(p r) + s) / (sum(p) + sum(r) + s)`.

    Source:
        Milletari et al. 2016 (V-Net) with nnU-Net's sums instead of squares.
    """
    axes = (0, 2, 3, 4) if batch else (2, 3, 4)
    truth = reference.to(probabilities.dtype)
    if known is not None:
        truth, probabilities = truth * known, probabilities * known
    both = (probabilities * truth).sum(axes)
    return (2 * both + smooth) / (probabilities.sum(axes) + truth.sum(axes) + smooth).clamp(min=1e-8)


def cross_entropy(
    log_probabilities: Tensor, target: Tensor, weights: Tensor | None, smoothing: float, gamma: float
) -> Tensor:
    """Cross-entropy of labels that exclude each other, the mean over the known voxels.

    Args:
        log_probabilities: `(B, K, X, Y, Z)`, of a log-softmax.
        target: `(B, X, Y, Z)` indices; negative where the label is not known.
        weights: `(K,)`, of each label; the mean is weighted by them, as torch's is.
        smoothing: share of the target that is spread evenly over all labels.
        gamma: each voxel counts (1 - p)^gamma, p the probability of its label; 0: all the same.

    Source:
        gamma: Lin et al. 2017 (focal loss), eq. 4. Smoothing: Szegedy et al. 2016, section 7.
    """
    known, index = target >= 0, target.clamp(min=0)
    own = log_probabilities.gather(1, index[:, None])[:, 0]
    weight = known.to(own.dtype) if weights is None else known * weights[index]
    entropy = -(1 - smoothing) * weight * own
    if smoothing:
        each = log_probabilities if weights is None else log_probabilities * weights.view(1, -1, 1, 1, 1)
        entropy = entropy - smoothing * known * each.mean(1)
    if gamma:
        entropy = entropy * (1 - own.exp()) ** gamma
    return entropy.sum() / weight.sum().clamp(min=1e-8)


def binary_cross_entropy(
    logits: Tensor,
    reference: Tensor,
    weights: Tensor | None,
    smoothing: float,
    gamma: float,
    known: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of regions that may overlap, the mean over regions and known voxels.

    Args:
        logits: `(B, C, X, Y, Z)`.
        reference: `(B, C, X, Y, Z)` bool.
        weights: `(C,)`, of each region; the mean is weighted by them.
        smoothing: how far 0 and 1 are moved towards one half.
        gamma: as in `cross_entropy`.
        known: voxels that count.
    """
    truth = reference.to(logits.dtype)
    soft = truth * (1 - smoothing) + smoothing / 2
    entropy = functional.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    if gamma:
        probability = torch.sigmoid(logits)
        entropy = entropy * (truth * (1 - probability) + (1 - truth) * probability) ** gamma
    weight = torch.ones_like(entropy) if known is None else known.expand_as(entropy).to(entropy.dtype)
    if weights is not None:
        weight = weight * weights[None, :, None, None, None]
    return (entropy * weight).sum() / weight.sum().clamp(min=1e-8)


def boundary_loss(
    probabilities: Tensor, reference: Tensor, spacing_mm: tuple[float, ...], known: Tensor | None = None
) -> Tensor:
    """Mean of probability times signed distance to the reference's boundary, mm: outside costs, inside gains.

    The distances are computed on the CPU, each patch and structure; a structure that a patch does not have,
    or that fills it, has no boundary there and counts zero.

    Args:
        probabilities: `(B, C, X, Y, Z)`.
        reference: `(B, C, X, Y, Z)` bool.
        spacing_mm: of the grid.
        known: voxels that count.

    Source:
        Kervadec et al. 2019 (MIDL), "Boundary loss for highly unbalanced segmentation", eq. 5. Their code
        takes voxels for mm.
    """
    masks = reference.cpu().numpy()
    distances = np.zeros(masks.shape, np.float32)
    for b in range(masks.shape[0]):
        for c in range(masks.shape[1]):
            mask = masks[b, c]
            if mask.any() and not mask.all():
                distances[b, c] = signed_distance(mask, spacing_mm)
    product = probabilities * torch.from_numpy(distances).to(probabilities.device)
    if known is None:
        return product.mean()
    return (product * known).sum() / (known.sum() * product.shape[1]).clamp(min=1)


def signed_distance(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance to the nearest voxel of the other kind, mm; negative inside, less the least voxel edge there,
    so that the rim inside is zero.

    >>> signed_distance(np.array([False, True, True, True]), (2.0,)).tolist()
    [2.0, 0.0, -2.0, -4.0]
    """
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    inside = distance_transform_edt(mask, sampling=spacing_mm)
    return np.asarray(outside) - np.maximum(np.asarray(inside) - min(spacing_mm), 0)
