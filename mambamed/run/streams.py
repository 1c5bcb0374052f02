"""Copies to a GPU that nobody waits for: from page-locked memory, and on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class Streams(Protocol):
    """A side stream of a device, and that of the computations."""

    def aside(self) -> AbstractContextManager[Any]:
        """A block whose work is queued on the side stream."""
        ...

    def mark(self) -> Any:
        """The end of all that is queued on the side stream now."""
        ...

    def join(self, mark: Any, tensors: Iterable[Tensor]) -> None:
        """Let the computations wait for a mark before they use these tensors, without waiting here."""
        ...


class CudaStreams:
    """`Streams` of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._side = device, torch.cuda.Stream(device)

    def aside(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._side)

    def mark(self) -> Any:
        return self._side.record_event()

    def join(self, mark: Any, tensors: Iterable[Tensor]) -> None:
        steps = torch.cuda.current_stream(self._device)
        steps.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(steps)  # else its memory might be used again too early


def copied(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device. A copy to a CUDA device is queued, from page-locked memory."""
    if device.type != "cuda":
        return values.to(device)
    staging = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)
    return staging.to(device, non_blocking=True)
