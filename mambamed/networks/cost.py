"""The cost of a network, counted without computing: parameters, operations, sequence lengths, memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_SCAN = "mambamed::selective_scan"
_MOMENTS = 8  # bytes per parameter of Adam's two moments in float32
_GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """The cost of a network at one patch; operations are those of a forward pass of one patch.

    `training_gib` consists of activations, what the backward pass adds, weights, gradients, and Adam's
    moments, in float32. bf16 and fp16 need about half of the activations. Workspaces and fragmentation are
    not included: on a CPU 0.1 to 0.2 GiB were measured, but as much again for a Mamba U-Net of 128^3 voxels
    with gradient checkpointing.
    """

    parameters: int  # a parameter that is used twice counts once
    conv_gmacs: float  # multiply-accumulates of all convolutions, with those before scans, 10^9
    product_gmacs: float  # of the matrix products, 10^9
    # state updates of the scans, sum of D * L * N, 10^9; each is one exponential and about four
    # multiply-adds, which are not in `gmacs`
    scan_g: float
    scans: int
    longest_sequence: int  # L of the longest scan; 0 without one
    activations_gib: float  # held after the forward pass of a training step of the whole batch, float32, GiB
    training_gib: float  # estimate of a training step's peak

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates, 10^9."""
        return self.conv_gmacs + self.product_gmacs

    @property
    def gflops(self) -> float:
        """Floating point operations, 10^9: two per multiply-accumulate."""
        return 2 * self.gmacs


def network_cost(
    network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int = 2
) -> Cost:
    """Count the cost of a network on the meta device, where nothing is computed; its gradients are cleared.

    `patch_size` is `(X, Y, Z)`; `batch_size` the patches of a training step.
    """
    scans = _ScanCounter()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, scans:
        network.eval()(torch.zeros(1, in_channels, *patch_size, device="meta"))
    counted = counter.get_flop_counts().get("Global", {}).items()
    convolutions = sum(flops // 2 for operator, flops in counted if "convolution" in str(operator))
    products = sum(flops // 2 for operator, flops in counted if "convolution" not in str(operator))
    taps = _taps_by_width(network)
    convolutions += sum(rows * length * taps.get(rows, 0) for rows, length, _ in scans.sizes)
    activations, training = training_memory(network, in_channels, patch_size, batch_size)
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        conv_gmacs=convolutions / 1e9,
        product_gmacs=products / 1e9,
        scan_g=sum(rows * length * states for rows, length, states in scans.sizes) / 1e9,
        scans=len(scans.sizes),
        longest_sequence=max((length for _, length, _ in scans.sizes), default=0),
        activations_gib=activations,
        training_gib=training,
    )


def training_memory(
    network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int
) -> tuple[float, float]:
    """`activations_gib` and `training_gib` of the cost alone; see `network_cost`."""
    after_forward, peak = _training_bytes(network, in_channels, patch_size, batch_size)
    kept = sum(p.nbytes + _MOMENTS * p.numel() for p in network.parameters())
    return after_forward / _GIB, (peak + kept) / _GIB


def step_gflops(network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int) -> float:
    """Floating point operations of forward and backward pass of a training step, 10^9, without the scans.

    Counted on the meta device, because torch's counter keeps tensors that a real step would free.
    """
    with FlopCounterMode(display=False) as counter:
        _backward(_training_outputs(network, in_channels, patch_size, batch_size))
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 1e9


class _ScanCounter(TorchDispatchMode):
    """Counts the selective scans."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int, int]] = []  # (D, L, N), once for each sequence of the batch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(_SCAN) and "backward" not in func.name():
            u, A = args[0], args[2]
            self.sizes += [(u.shape[1], u.shape[2], A.shape[1])] * u.shape[0]
        return func(*args, **(kwargs or {}))


def _taps_by_width(network: nn.Module) -> dict[int, int]:
    """D -> taps of the causal convolution before a scan of D channels.

    On the meta device it is a sum of shifted products, which torch's counter does not recognize.
    """
    modules = [m for m in network.modules() if hasattr(m, "d_inner") and hasattr(m, "d_conv")]
    return {int(m.d_inner): int(m.d_conv) for m in modules}  # type: ignore[arg-type]


class _LiveBytes(TorchDispatchMode):
    """Tracks the memory of the tensors that operators create, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.now = self.peak = 0

    def leave_out(self, tensors: Sequence[Tensor]) -> None:
        """Exclude existing memory, e.g. if an operator returns a view of it."""
        self._live.update((t.untyped_storage()._cdata, 0) for t in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._live:
                    self._live[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._forget, storage._cdata)
        return result

    def _forget(self, storage: int) -> None:
        self.now -= self._live.pop(storage)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention on the meta device as fused kernels compute it, which store no matrix of all pairs of tokens.

    Otherwise torch forms this matrix there. A mode of torch cannot do this, because the recomputation of
    checkpointed parts runs outside of it.
    """
    plain = functional.scaled_dot_product_attention

    def fused(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **given: Any
    ) -> Any:
        learned = attn_mask is not None and attn_mask.requires_grad
        if (
            not query.is_meta
            or query.ndim != 4
            or learned
            or given.get("dropout_p")
            or given.get("enable_gqa")
        ):
            return plain(query, key, value, attn_mask, **given)
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        is_causal, scale = given.get("is_causal", False), given.get("scale")
        return operator(query, key, value, is_causal=is_causal, attn_mask=attn_mask, scale=scale)[0]

    setattr(functional, plain.__name__, fused)
    try:
        yield
    finally:
        setattr(functional, plain.__name__, plain)


def _training_bytes(
    network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int
) -> tuple[int, int]:
    """Bytes held after a forward pass, and peak during forward and backward, without the weights."""
    live = _LiveBytes()
    live.leave_out([*network.parameters(), *network.buffers()])
    with live, _fused_attention():
        outputs = _training_outputs(network, in_channels, patch_size, batch_size)
        after_forward = live.now
        _backward(outputs)
    network.zero_grad(set_to_none=True)
    return after_forward, live.peak


def peak_bytes(work: Callable[[], object], existing: Sequence[Tensor] = ()) -> int:
    """Largest memory of the tensors that some work creates, without existing ones."""
    live = _LiveBytes()
    live.leave_out(existing)
    with live:
        work()
    return live.peak


def _training_outputs(
    network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int
) -> list[Tensor]:
    outputs = network.train()(torch.zeros(batch_size, in_channels, *patch_size, device="meta"))
    return outputs if isinstance(outputs, list) else [outputs]


def _backward(outputs: Sequence[Tensor]) -> None:
    torch.autograd.backward(outputs, [torch.empty_like(each) for each in outputs])
