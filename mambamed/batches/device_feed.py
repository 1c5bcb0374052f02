"""Batches on a GPU, copied and augmented there on a side stream while the step before is computed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import torch

from mambamed.batches.loader import AnyBatch, Batch
from mambamed.run.streams import CudaStreams, Streams


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
