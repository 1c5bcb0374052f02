"""What a network costs, counted without computing: parameters, operations, sequence lengths, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_SCAN = "mambamed::selective_scan"
_BYTES_PER_PARAMETER = 16  # float32: the weight, its gradient, and the two moments of Adam


@dataclass(frozen=True)
class Cost:
    """The cost of a network at one patch.

    Attributes:
        parameters: a parameter used twice counts once.
        gmacs: multiply-accumulates of convolutions and matrix products in a forward pass of one patch, 10^9.
        scan_g: state updates of the selective scans, sum of D * L * N, 10^9; each is one exponential and
            about four multiply-adds, not in `gmacs`.
        scans: how many selective scans.
        longest_sequence: L of the longest scan; 0 without one.
        activations_gib: what a training step keeps for its backward pass, GiB, in float32 and for one patch.
        training_gib: estimate of a training step's memory: activations of the batch, weights, gradients
            and optimizer, in float32. Half precision takes about half of the activations; workspaces and
            what the allocator wastes come on top.
    """

    parameters: int
    gmacs: float
    scan_g: float
    scans: int
    longest_sequence: int
    activations_gib: float
    training_gib: float

    @property
    def gflops(self) -> float:
        """Floating point operations of a forward pass, 10^9: two a multiply-accumulate."""
        return 2 * self.gmacs


class _ScanCounter(TorchDispatchMode):
    """Notes every selective scan that passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int, int]] = []  # (B * D, L, N)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(_SCAN) and "backward" not in func.name():
            u, A = args[0], args[2]
            self.sizes.append((u.shape[0] * u.shape[1], u.shape[2], A.shape[1]))
        return func(*args, **(kwargs or {}))


def network_cost(
    network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int = 1
) -> Cost:
    """Count what a network costs at a patch.

    Args:
        network: on the meta device, where nothing is computed.
        in_channels: channels of its input.
        patch_size: `(X, Y, Z)`.
        batch_size: patches of a training step.
    """
    image = torch.zeros(1, in_channels, *patch_size, device="meta")
    scans = _ScanCounter()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, scans:
        network.eval()(image)
    kept: dict[int, int] = {}
    tensors: list[Tensor] = []  # alive until counted, so that no two share a storage
    parameters = {id(p) for p in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(torch.cat([image, image]))  # batch norm wants two
    count = sum(p.numel() for p in network.parameters())
    activations = sum(kept.values()) / 2
    return Cost(
        parameters=count,
        gmacs=flops.get_total_flops() / 2e9,
        scan_g=sum(rows * length * states for rows, length, states in scans.sizes) / 1e9,
        scans=len(scans.sizes),
        longest_sequence=max((length for _, length, _ in scans.sizes), default=0),
        activations_gib=activations / 2**30,
        training_gib=(activations * batch_size + _BYTES_PER_PARAMETER * count) / 2**30,
    )
