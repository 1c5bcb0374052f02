"""Where a classifier finds what speaks for a class, on the grid of the input file.

`METHODS` maps the name of a method, `classify --saliency-method`, to its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambamed.errors import ModelError
from mambamed.preparation.grid import CaseGeometry
from mambamed.tasks.classification import center_start
from mambamed.tasks.covariates import WithCovariates

_FEWEST_VOXELS = 4  # per axis of the map; coarser maps do not localize
_WINDOWED = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)
_Grid = tuple[NDArray[np.float64], NDArray[np.float64]]  # step and start of `Cam`


_STEPS = 16  # of the path of integrated gradients
_SIGMA_VOXELS = 1.0  # single voxels of noise have large gradients too


@dataclass(frozen=True)
class Cam:
    """A map: `(x, y, z)` values from 0 to 1 on the grid of the patch, or of features of the network.

    Value i is at voxel `start + step * i` of the patch, along each axis.
    """

    values: NDArray[np.float32]
    step: NDArray[np.float64]
    start: NDArray[np.float64]


def integrated_gradients(network: nn.Module, patch: Tensor, class_index: int) -> Cam:
    """How much each voxel adds to the log-odds of a class, smoothed; what speaks against it is 0.

    The gradient is averaged over images between zeros (the mean of a normalized channel) and the patch, and
    multiplied with the patch. Contributions are summed over the channels of the image; covariates are
    constant.

    Args:
        network: maps `(1, C, X, Y, Z)` to `(1, K)` logits; in evaluation mode.
        patch: `(C, X, Y, Z)`, on the network's device.

    Returns:
        The map; 0 everywhere if nothing supports the class.

    Source:
        Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, eq. 1, by the midpoint rule.
    """
    from scipy import ndimage

    patch = patch.detach().float()
    count = network.channels if isinstance(network, WithCovariates) else len(patch)
    image, others, total = patch[:count], patch[count:], torch.zeros_like(patch[:count])
    for step in range(_STEPS):
        with torch.enable_grad():
            between = (image * ((step + 0.5) / _STEPS)).requires_grad_()
            logits = network(torch.cat([between, others])[None])[0]
            rest = torch.cat([logits[:class_index], logits[class_index + 1 :]])
            (slope,) = torch.autograd.grad(logits[class_index] - torch.logsumexp(rest, 0), between)
        total += slope / _STEPS
    spoken = ndimage.gaussian_filter((total * image).sum(0).cpu().numpy(), _SIGMA_VOXELS).clip(min=0)
    highest = float(spoken.max())
    return Cam((spoken / highest if highest > 0 else spoken).astype(np.float32), np.ones(3), np.zeros(3))


def grad_cam(network: nn.Module, patch: Tensor, class_index: int) -> Cam:
    """Grad-CAM of a class.

    The features are the last ones in the network with at least four voxels along every axis (if there are
    none, the last ones): the final features of a small volume are too coarse to localize anything.

    Args:
        network: maps `(1, C, X, Y, Z)` to `(1, K)` logits; in evaluation mode.
        patch: `(C, X, Y, Z)`, on the network's device.

    Returns:
        The map; 0 everywhere if nothing supports the class.

    Raises:
        ModelError: the network has no 3D features.

    Source:
        Selvaraju et al. 2017, Grad-CAM, eq. 1 and 2.
    """
    seen: list[Tensor] = []
    grids: dict[tuple[int, ...], _Grid] = {tuple(patch.shape[1:]): (np.ones(3), np.zeros(3))}

    def remember(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 5 or len(output) != 1:
            return  # len: MONAI's attention gives queries, keys and values in one tensor of five axes
        if output.requires_grad:
            seen.append(output)
        shape = tuple(output.shape[2:])
        if shape not in grids and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 5:
            before = tuple(inputs[0].shape[2:])
            # A grid that is no module's output is the patch, padded at its end.
            grid = grids.get(before, (np.ones(3), np.zeros(3)))
            grids[shape] = _grid_after(module, grid, before, shape)

    hooks = [module.register_forward_hook(remember) for module in network.modules()]
    try:
        with torch.enable_grad():
            logits = network(patch.detach().float()[None].requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        name = type(network).__name__
        raise ModelError(
            f"--saliency-method: grad-cam needs features on a grid, {name} has none. Use gradients."
        )
    fine = [features for features in seen if min(features.shape[2:]) >= _FEWEST_VOXELS]
    features = (fine or seen)[-1]
    (slope,) = torch.autograd.grad(logits[0, class_index], features)
    weights = slope.mean((2, 3, 4), keepdim=True)
    spoken = torch.relu((weights * features).sum(1))[0].detach()
    highest = float(spoken.max())
    values = (spoken / highest if highest > 0 else spoken).float().cpu().numpy()
    return Cam(values, *grids[tuple(features.shape[2:])])


METHODS: dict[str, Callable[[nn.Module, Tensor, int], Cam]] = {
    "gradients": integrated_gradients,
    "grad-cam": grad_cam,
}


def _grid_after(module: nn.Module, grid: _Grid, before: Sequence[int], after: Sequence[int]) -> _Grid:
    """Step and start of a module's output: each voxel is at the center of its receptive field."""
    if isinstance(module, _WINDOWED):
        kernel, stride = _each_axis(module.kernel_size), _each_axis(module.stride)
        dilation = _each_axis(getattr(module, "dilation", 1))
        same = isinstance(module.padding, str)
        middle = np.zeros(3) if same else dilation * (kernel - 1) / 2 - _each_axis(module.padding)
    else:
        stride = np.rint(np.divide(before, after))
        middle = (stride - 1) / 2
    step, start = grid
    return step * stride, start + step * middle


def _each_axis(value: Any) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(value, float), 3)


def on_native_grid(cam: Cam, geometry: CaseGeometry, patch_size: Sequence[int]) -> NDArray[np.float32]:
    """Resample a map of the centered patch linearly to the grid of the file; 0 outside of the patch."""
    from scipy import ndimage

    size = np.asarray(patch_size, float)
    start = np.asarray(center_start(geometry.shape_prepared, patch_size), float)
    prepared_from_native = np.linalg.inv(geometry.affine_prepared) @ np.array(geometry.affine_native)
    cam_from_prepared = np.diag([*(1 / cam.step), 1.0])
    cam_from_prepared[:3, 3] = -(start + cam.start) / cam.step
    way: Any = cam_from_prepared @ prepared_from_native
    native = ndimage.affine_transform(
        cam.values, way[:3, :3], way[:3, 3], output_shape=geometry.shape_native, order=1, mode="nearest"
    )
    # The patch is also a box in native voxels: axes are only permuted, flipped and scaled.
    corners = np.array([start - 0.5, start + size - 0.5])
    back = np.linalg.inv(prepared_from_native)
    low, high = np.sort(corners @ back[:3, :3].T + back[:3, 3], axis=0)
    inside = np.zeros(geometry.shape_native, bool)
    inside[
        tuple(slice(max(0, int(np.ceil(a))), int(np.floor(b)) + 1) for a, b in zip(low, high, strict=True))
    ] = True
    return np.where(inside, native, 0).astype(np.float32)
