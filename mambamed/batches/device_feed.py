"""Batches on a GPU, copied and augmented there on a side stream while the step before is computed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, closing
from typing import Any, Protocol

import torch
from torch import Tensor

from mambamed.batches.loader import AnyBatch, Batch


class Streams(Protocol):
    """A side stream of a device, and that of the training steps."""

    def aside(self) -> AbstractContextManager[Any]:
        """A block whose work is queued on the side stream."""
        ...

    def mark(self) -> Any:
        """The end of all that is queued on the side stream now."""
        ...

    def join(self, mark: Any, tensors: Iterable[Tensor]) -> None:
        """Let the steps wait for a mark before they use these tensors, without waiting here."""
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


def on_device(
    batches: Generator[AnyBatch, None, None],
    device: torch.device,
    layout: torch.memory_format,
    streams: Streams | None = None,
) -> Generator[Batch, None, None]:
    """The same batches on the device, in order; one more than is in use is there.

    The copy of the next batch is queued before a batch is handed out, so that it runs next to its step.

    Args:
        batches: in pinned memory; closed with this generator.
        streams: default: those of a CUDA device.
    """
    streams = streams or CudaStreams(device)
    with closing(batches):
        ahead: tuple[Batch, Any] | None = None
        for batch in batches:
            with streams.aside():
                image, target = batch.on(device, layout)
            copied = Batch(image, target, batch.case_ids), streams.mark()
            if ahead is not None:
                yield _joined(streams, *ahead)
            ahead = copied
        if ahead is not None:
            yield _joined(streams, *ahead)


def _joined(streams: Streams, batch: Batch, mark: Any) -> Batch:
    streams.join(mark, (batch.image, batch.target))
    return batch
