"""Forward passes: mirrored copies averaged, smaller batches when memory runs out, uniform windows cached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mambamed.errors import RunError
from mambamed.memory import is_out_of_memory, shortage
from mambamed.runs.device import autocast

_CACHED_BYTES = 2**28  # the largest result that is kept for windows whose voxels are all equal


class ForwardPass:
    """Mean logits of networks over mirrored copies of patches.

    Args:
        networks: each maps `(B, C, *patch)` to `(B, K, *patch)`, or to `(B, K)` if it pools; in evaluation
            mode, on `device`.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are averaged in.
        batch_size: patches per pass, to begin with.
        device: where the networks are.
        precision: of the networks' products, see `runs.device`.
        layout: memory format of the networks' input.
        on_message: callback that receives what was changed for lack of memory.
        free_memory: frees some memory of the device when not even one patch fits; returns whether it could.
        mirror_order: which channel each one becomes in a mirror image, where left and right have channels of
            their own.

    Attributes:
        batch_size: patches per pass; halved whenever the device's memory does not suffice.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        mirror_axes: Sequence[int],
        batch_size: int,
        device: torch.device,
        precision: str,
        layout: torch.memory_format,
        on_message: Callable[[str], None] = lambda line: None,
        free_memory: Callable[[], bool] = lambda: False,
        mirror_order: Sequence[int] | None = None,
    ) -> None:
        self._mirror_order = None if mirror_order is None else list(mirror_order)
        self.batch_size = batch_size
        self._networks, self._device, self._on_message = networks, device, on_message
        self._precision, self._layout, self._free_memory = precision, layout, free_memory
        self._flips = [
            [2 + axis for axis in chosen]
            for count in range(len(mirror_axes) + 1)
            for chosen in itertools.combinations(mirror_axes, count)
        ]
        self._buffer: Tensor | None = None
        self._cached: tuple[tuple[float, ...], Tensor] | None = None

    def __call__(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """Patches `(C, *patch)` -> their logits `(K, *patch)` or `(K,)` on the device: float32, or, of a
        single pass on a CPU, bfloat16 if that is the network's output.

        Raises:
            RunError: the device has not the memory for a single patch.
        """
        logits: list[Tensor | None] = [None] * len(patches)
        values = [_only_value(patch) for patch in patches]
        computed = []
        for number, value in enumerate(values):
            if value is not None and self._cached is not None and self._cached[0] == value:
                logits[number] = self._cached[1]
            else:
                computed.append(number)
        for number, result in zip(computed, self._in_batches([patches[n] for n in computed]), strict=True):
            logits[number] = result
            value = values[number]
            if value is not None and result.numel() * result.element_size() <= _CACHED_BYTES:
                self._cached = (value, result.clone())  # not a part of a batch, which would be kept
        return [each for each in logits if each is not None]

    def _in_batches(self, patches: Sequence[Tensor]) -> list[Tensor]:
        results: list[Tensor] = []
        reduced = False
        while len(results) < len(patches):
            batch = patches[len(results) : len(results) + self.batch_size]
            try:
                with torch.inference_mode():
                    results += list(self._mean(self._stacked(batch)))
                continue
            except Exception as error:
                if not is_out_of_memory(error, after=reduced):
                    raise
                lack, reduced = shortage(error), True
            # Outside the handler, for the error holds the activations that are to be freed.
            self._reduce_memory(lack)
        return results

    def _stacked(self, batch: Sequence[Tensor]) -> Tensor:
        """The patches as the networks read them, on the device."""
        if self._device.type != "cpu":
            stack = torch.stack(list(batch)) if len(batch) > 1 else batch[0][None]  # copied once
            return stack.to(self._device).contiguous(memory_format=self._layout)
        shape = (len(batch), *batch[0].shape)
        if self._buffer is None or self._buffer.shape != shape:
            # kept from pass to pass: glibc hands out other pages for each, which the kernel clears first
            self._buffer = torch.empty(shape, dtype=batch[0].dtype, memory_format=self._layout)
        for place, patch in zip(self._buffer, batch, strict=True):
            place.copy_(patch)
        return self._buffer

    def _mean(self, patches: Tensor) -> Tensor:
        total: Tensor | None = None
        pooled: list[Tensor] = []
        passes = len(self._flips) * len(self._networks)
        with autocast(self._device, self._precision):
            for flips in self._flips:
                turned = torch.flip(patches, flips) if flips else patches
                for network in self._networks:
                    logits = network(turned)
                    if logits.dim() == 2:
                        pooled.append(logits.float())
                        continue
                    if not (passes == 1 and logits.dtype == torch.bfloat16 and logits.device.type == "cpu"):
                        logits = logits.float()
                    logits = torch.flip(logits, flips) if flips else logits
                    if self._mirror_order is not None and len(flips) % 2:  # two mirrors make a turn
                        logits = logits[:, self._mirror_order]
                    total = logits if total is None else total + logits
        if total is None:
            return torch.stack(pooled).mean(0)
        return total if passes == 1 else total.div_(passes)

    def _reduce_memory(self, lack: str) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
            self._on_message(f"{self._device}: out of memory; now {self.batch_size} windows per pass")
        elif self._free_memory():
            self._on_message(f"{self._device}: out of memory; the windows are now summed on the CPU")
        else:
            remedy = "Free some." if self._device.type == "cpu" else "Use --device cpu, or free the device."
            raise RunError(f"{self._device}: out of memory: a single window {lack}. {remedy}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def class_logits(
    network: nn.Module,
    patches: Tensor,
    mirror_axes: Sequence[int] = (),
    *,
    device: torch.device,
    precision: str,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Mean logits of a pooled network over mirrored copies.

    Args:
        network: maps `(B, C, X, Y, Z)` to `(B, K)`; in evaluation mode, on `device`.
        patches: `(B, C, X, Y, Z)`.
        mirror_axes: spatial axes (0, 1, 2) along which training mirrored; along the others a mirror image may
            be of another class.
        device, precision, layout: see `ForwardPass`.

    Returns:
        `(B, K)` float32 on the CPU.

    Raises:
        RunError: the device has not the memory for a single patch.
    """
    forward = ForwardPass([network], mirror_axes, len(patches), device, precision, layout)
    return torch.stack(forward(list(patches))).cpu()


def _only_value(patch: Tensor) -> tuple[float, ...] | None:
    """The value of all voxels, one per channel; None if voxels differ."""
    corner = patch[:, 0, 0, 0]
    # Most windows differ along their first line already.
    if bool((patch[:, 0, 0] != corner[:, None]).any()):
        return None
    if bool((patch != corner[:, None, None, None]).any()):
        return None
    return tuple(corner.tolist())
