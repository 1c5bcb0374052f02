"""Optimizers, clipping, and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor, nn

from mambamed.recipe import Optimizer

# Recipe's name -> optimizer of parameter groups, from the recipe's settings, and whether it may be fused.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Optimizer, bool], torch.optim.Optimizer]] = {
    "adam": lambda groups, s, fused: torch.optim.Adam(groups, lr=s.lr, fused=fused),
    "adamw": lambda groups, s, fused: torch.optim.AdamW(groups, lr=s.lr, fused=fused),
    "radam": lambda groups, s, fused: torch.optim.RAdam(groups, lr=s.lr),
    "sgd": lambda groups, s, fused: torch.optim.SGD(
        groups, lr=s.lr, momentum=s.momentum, nesterov=s.momentum > 0, fused=fused
    ),
}


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over a network's parameters; the network is on its device, in its memory format.

    Weight decay is not applied to vectors (biases, scales of normalizations) and parameters marked with
    `_no_weight_decay` (A and D of a Mamba block); other implementations decay everything.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    spared = [p for p in parameters if p.ndim <= 1 or getattr(p, "_no_weight_decay", False)]
    ids = {id(p) for p in spared}
    groups = [
        {"params": [p for p in parameters if id(p) not in ids], "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One pass over the memory instead of ten, if torch supports it.
    fused = parameters[0].device.type in {"cpu", "cuda"}
    return OPTIMIZERS[settings.name](groups, settings, fused)


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by the parameters' names, e.g. `exp_avg.stem.weight`."""
    tensors = {}
    for name, parameter in network.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{field}.{name}"] = value
            elif value is not None:
                tensors[f"{field}.{name}"] = torch.tensor(float(value))
    return tensors


def restore_optimizer(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Restore `optimizer_tensors`, in the memory format of each parameter, which fused kernels require."""
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for key, tensor in tensors.items():
        field, _, name = key.partition(".")
        parameter = parameters[name]
        if field == "step":
            fused = optimizer.defaults.get("fused")
            value = tensor.clone().to(parameter.device if fused else "cpu")
        else:
            value = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        optimizer.state[parameter][field] = value


class WeightAverage:
    """Exponential moving average of a network's weights, and of its running statistics.

    After step t (from 0): `average += (1 - d) (weights - average)`, d = min(decay, (1 + t) / (10 + t)), so
    that the random initialization is soon forgotten. Integer buffers are copied. `network` is a copy of the
    network, in evaluation mode, that holds the average.

    Source: Polyak & Juditsky 1992; the warm-up of the decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int, skipped: Tensor | None = None) -> None:
        """Include the weights after `step`, unless `skipped`, a number on their device, is 1."""
        own, new = _unique_tensors(self.network), _unique_tensors(network)
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        floats = [(a, b) for a, b in zip(own, new, strict=True) if a.is_floating_point()]
        # As in torch's own swa_utils: all tensors in one call.
        if skipped is None:
            torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], share)
        else:
            change = torch._foreach_sub([b for _, b in floats], [a for a, _ in floats])
            torch._foreach_mul_(change, share * (1 - skipped))
            torch._foreach_add_([a for a, _ in floats], change)
        for a, b in zip(own, new, strict=True):
            if not a.is_floating_point():
                a.copy_(b)


def _unique_tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once even if a module is used twice."""
    return [p.detach() for p in network.parameters()] + list(network.buffers())


class RunningStatistics:
    """A copy of the buffers of a network, to undo the changes of a step that is not finite."""

    def __init__(self, network: nn.Module) -> None:
        self._live = list(network.buffers())
        self._kept = [buffer.clone() for buffer in self._live]

    def keep(self) -> None:
        """Remember the buffers as they are."""
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live)

    def put_back(self, wanted: Tensor | None = None) -> None:
        """Restore the remembered buffers, or only if `wanted`, a number on their device, is 1."""
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept if wanted is None else torch.where(wanted.bool(), kept, live))
