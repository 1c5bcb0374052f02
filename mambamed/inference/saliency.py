"""Where a classifier looked: Grad-CAM, on the grid of the case's own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambamed.preparation.grid import CaseGeometry
from mambamed.tasks.classification import center_start

_FEWEST_VOXELS = 4  # an axis of the map; coarser ones tell no place


def grad_cam(network: nn.Module, patch: Tensor, class_index: int) -> NDArray[np.float32]:
    """How much each place spoke for a class.

    The features are the last ones in the network that still have four voxels along every axis (the last of
    all where none have): the very last of a small volume are two or three voxels wide and tell no place.

    Args:
        network: maps `(1, C, X, Y, Z)` to `(1, K)` logits; in evaluation mode.
        patch: `(C, X, Y, Z)`, on the network's device.
        class_index: k, of the class.

    Returns:
        `(x, y, z)` on the grid of the features, which spans the patch edge to edge; from 0 to 1, all 0 where
        nothing spoke for the class.

    Raises:
        ValueError: the network has no features with places.

    Source:
        Selvaraju et al. 2017, Grad-CAM, eq. 1 and 2.
    """
    seen: list[Tensor] = []

    def remember(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 5 and output.requires_grad:
            seen.append(output)

    hooks = [module.register_forward_hook(remember) for module in network.modules()]
    try:
        with torch.enable_grad():
            logits = network(patch.detach().float()[None].requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(f"{type(network).__name__}: has no features with places; nothing can be shown")
    fine = [features for features in seen if min(features.shape[2:]) >= _FEWEST_VOXELS]
    features = (fine or seen)[-1]
    (slope,) = torch.autograd.grad(logits[0, class_index], features)
    weights = slope.mean((2, 3, 4), keepdim=True)
    spoken = torch.relu((weights * features).sum(1))[0].detach()
    highest = float(spoken.max())
    return (spoken / highest if highest > 0 else spoken).float().cpu().numpy()


def on_native_grid(
    cam: NDArray[np.float32], geometry: CaseGeometry, patch_size: Sequence[int]
) -> NDArray[np.float32]:
    """A map over the patch in the middle of a case -> the same on the grid of its file, linearly.

    Args:
        cam: `(x, y, z)`, spanning the patch edge to edge.
        geometry: where the prepared grid lies in the file.
        patch_size: voxels of the patch.

    Returns:
        `geometry.shape_native`; 0 outside of the patch. Right to half a voxel of the features: strided
        convolutions and pooling place theirs differently, which the shape does not tell.
    """
    from scipy import ndimage

    size, grid = np.asarray(patch_size, float), np.asarray(cam.shape, float)
    start = np.asarray(center_start(geometry.shape_prepared, patch_size), float)
    prepared_from_native = np.linalg.inv(geometry.affine_prepared) @ np.array(geometry.affine_native)
    cam_from_prepared = np.diag([*(grid / size), 1.0])
    cam_from_prepared[:3, 3] = (0.5 - start) * grid / size - 0.5
    way: Any = cam_from_prepared @ prepared_from_native
    native = ndimage.affine_transform(
        cam, way[:3, :3], way[:3, 3], output_shape=geometry.shape_native, order=1, mode="nearest"
    )
    # The patch is a box in native voxels too: axes are only permuted, flipped and stretched.
    corners = np.array([start - 0.5, start + size - 0.5])
    back = np.linalg.inv(prepared_from_native)
    low, high = np.sort(corners @ back[:3, :3].T + back[:3, 3], axis=0)
    inside = np.zeros(geometry.shape_native, bool)
    inside[
        tuple(slice(max(0, int(np.ceil(a))), int(np.floor(b)) + 1) for a, b in zip(low, high, strict=True))
    ] = True
    return np.where(inside, native, 0).astype(np.float32)
