"""Forward passes: mirrored copies averaged, smaller batches when memory runs out, uniform windows cached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mambamed.errors import RunError
from mambamed.memory import is_out_of_memory, shortage
from mambamed.run.device import autocast

_CACHED_BYTES = 2**28  # the largest result that is kept for windows whose voxels are all equal


class ForwardPass:
    """Mean logits of networks over mirrored copies of patches.

    Args:
        networks: each maps `(B, C, *patch)` to `(B, K, *patch)`, or to `(B, K)` if it pools; in evaluation
            mode, on `device`.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are included in the average.
        batch_size: initial number of patches per pass; halved whenever the device's memory is too small.
        precision: of the networks' products, see `run.device`.
        layout: memory format of the networks' input.
        on_message: callback that receives what was changed because memory ran out.
        free_memory: frees some memory of the device when not even one patch fits; returns whether it could.
        mirror_order: channel that each one becomes in an image mirrored across x, if left and right have
            separate ones.
        also: makes further channels from the logits of each pass, which are averaged as well.
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
        also: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._also = also
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

    def __call__(self, patches: Sequence[Tensor], resident: list[Tensor] | None = None) -> list[Tensor]:
        """Logits `(K, *patch)` or `(K,)` of each patch `(C, *patch)`, on the device.

        float32; bfloat16 for a single pass on a CPU if the network outputs it. RunError if no patch fits.

        Args:
            patches: on the CPU.
            resident: the same patches in the device's memory, if they are there; emptied if memory runs out.
        """
        logits: list[Tensor | None] = [None] * len(patches)
        values = [_only_value(patch) for patch in patches]
        computed = []
        for number, value in enumerate(values):
            if value is not None and self._cached is not None and self._cached[0] == value:
                logits[number] = self._cached[1]
            else:
                computed.append(number)
        sources = patches if resident is None else resident
        chosen = [sources[n] for n in computed]
        if resident is not None:
            resident.clear()
        results = self._in_batches([patches[n] for n in computed], chosen)
        for number, result in zip(computed, results, strict=True):
            logits[number] = result
            value = values[number]
            if value is not None and result.numel() * result.element_size() <= _CACHED_BYTES:
                self._cached = (value, result.clone())  # not a view, which would keep the whole batch
        return [each for each in logits if each is not None]

    def _in_batches(self, patches: list[Tensor], sources: list[Tensor]) -> list[Tensor]:
        results: list[Tensor] = []
        reduced = False
        while len(results) < len(patches):
            batch = sources[len(results) : len(results) + self.batch_size]
            try:
                with torch.inference_mode():
                    results += list(self._mean(self._stacked(batch)))
                continue
            except Exception as error:
                if not is_out_of_memory(error, after=reduced):
                    raise
                lack, reduced = shortage(error), True
            # Outside the handler, because the error references the activations that are to be freed.
            batch, sources[:] = [], patches  # none is a view of an image on the device
            self._reduce_memory(lack)
        return results

    def _stacked(self, batch: Sequence[Tensor]) -> Tensor:
        """The patches in the networks' memory format, on the device."""
        if self._device.type != "cpu":
            stack = torch.stack(list(batch)) if len(batch) > 1 else batch[0][None]  # copied once
            return stack.to(self._device).contiguous(memory_format=self._layout)
        shape = (len(batch), *batch[0].shape)
        if self._buffer is None or self._buffer.shape != shape:
            # reused: glibc would allocate new pages for each pass, which the kernel clears first
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
                    across_x = self._mirror_order if 2 in flips else None
                    if logits.dim() == 2:
                        pooled.append((logits if across_x is None else logits[:, across_x]).float())
                        continue
                    if not (passes == 1 and logits.dtype == torch.bfloat16 and logits.device.type == "cpu"):
                        logits = logits.float()
                    logits = torch.flip(logits, flips) if flips else logits
                    if across_x is not None:
                        logits = logits[:, across_x]
                    if self._also is not None:
                        logits = torch.cat([logits.float(), self._also(logits)], dim=1)
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
    mirror_order: Sequence[int] | None = None,
    *,
    device: torch.device,
    precision: str,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Mean logits of a pooled network over mirrored copies: `(B, K)` float32 on the CPU.

    Args:
        network: maps `(B, C, X, Y, Z)` patches to `(B, K)`; in evaluation mode, on `device`.
        mirror_axes: those along which training mirrored; along others a mirror image may be of another class.
        mirror_order, device, precision, layout: see `ForwardPass`, as for the RunError if a single patch does
            not fit.
    """
    forward = ForwardPass(
        [network], mirror_axes, len(patches), device, precision, layout, mirror_order=mirror_order
    )
    return torch.stack(forward(list(patches))).cpu()


def _only_value(patch: Tensor) -> tuple[float, ...] | None:
    """The value of all voxels, one per channel; None if voxels differ."""
    corner = patch[:, 0, 0, 0]
    # Most windows differ along their first line already.
    if bool((patch[:, 0, 0] != corner[:, None]).any() or (patch != corner[:, None, None, None]).any()):
        return None
    return tuple(corner.tolist())
