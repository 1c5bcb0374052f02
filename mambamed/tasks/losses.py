"""Losses of segmentation over `(B, C, X, Y, Z)`.

`known`, `(B, 1, X, Y, Z)` bool, excludes voxels with the label "ignore"; None: all voxels count.
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
    """Soft Dice of each structure: `(B, C)`, or `(C,)` for `batch`.

    `(2 sum(p r) + smooth) / (sum(p) + sum(r) + smooth)`, over each patch or over the whole batch.

    Args:
        reference: `(B, C, X, Y, Z)` bool.

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
    """Cross-entropy of mutually exclusive labels, averaged over the known voxels.

    Args:
        log_probabilities: `(B, K, X, Y, Z)`, from log-softmax.
        target: `(B, X, Y, Z)` indices; negative if unknown.
        weights: `(K,)`, per label; the mean is weighted by them, like torch's.
        smoothing: fraction of the target that is spread evenly over all labels.
        gamma: voxels are weighted by (1 - p)^gamma, where p is the probability of the true label.

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
    """Binary cross-entropy of overlapping regions, averaged over regions and known voxels.

    Args:
        reference: `(B, C, X, Y, Z)` bool.
        weights: `(C,)`, per region; the mean is weighted by them.
        smoothing: how far 0 and 1 are moved towards 0.5.
        gamma: see `cross_entropy`.
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
    """Mean of probability times signed distance in mm to the reference's boundary.

    The distances are computed on the CPU, per patch and structure; a structure that is absent from a patch or
    fills it has no boundary there and counts as zero.

    Source:
        Kervadec et al. 2019 (MIDL), "Boundary loss for highly unbalanced segmentation", eq. 5; their code
        measures in voxels.
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
    """Distance in mm to the nearest voxel of the other kind; negative inside, and reduced by the smallest
    voxel edge there, so that the inner rim is zero.

    >>> signed_distance(np.array([False, True, True, True]), (2.0,)).tolist()
    [2.0, 0.0, -2.0, -4.0]
    """
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    inside = distance_transform_edt(mask, sampling=spacing_mm)
    return np.asarray(outside) - np.maximum(np.asarray(inside) - min(spacing_mm), 0)
