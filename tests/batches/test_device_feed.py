"""Copies to a GPU run on a side stream, one batch ahead; here a stub notes the order."""

from __future__ import annotations

from contextlib import closing, contextmanager

import pytest
import torch

from mambamed.batches.device_feed import on_device
from mambamed.batches.loader import Batch


class NotedStreams:
    """Notes what is queued where; `batch.on` inside `aside` is the copy."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.inside, self.marks = False, 0

    @contextmanager
    def aside(self):
        self.inside = True
        yield
        self.inside = False

    def mark(self):
        self.marks += 1
        return self.marks - 1

    def join(self, mark, tensors):
        assert len(list(tensors)) == 2
        self.events.append(f"join {mark}")


class NotedBatch(Batch):
    streams: NotedStreams

    def on(self, device, layout):
        assert self.streams.inside
        self.streams.events.append(f"copy {self.case_ids[0]}")
        return super().on(device, layout)


def fed(streams, count, closed, fault=None):
    def batches():
        try:
            for number in range(count):
                if number == fault:
                    raise OSError("the disk is gone")
                batch = NotedBatch(torch.full((1, 1, 2, 2, 2), float(number)), torch.zeros(1), (str(number),))
                object.__setattr__(batch, "streams", streams)
                yield batch
        finally:
            closed.append(True)

    return on_device(batches(), torch.device("cpu"), torch.contiguous_format, streams)


def test_the_next_copy_is_queued_before_a_step_and_joined_before_its_own():
    streams, closed = NotedStreams(), []
    for number, batch in enumerate(fed(streams, 3, closed)):
        assert float(batch.image.mean()) == number and batch.case_ids == (str(number),)
        streams.events.append(f"step {number}")
    assert closed == [True]
    assert streams.events == [
        "copy 0", "copy 1", "join 0", "step 0", "copy 2", "join 1", "step 1", "join 2", "step 2",
    ]  # fmt: skip


def test_closing_it_closes_the_batches():
    streams, closed = NotedStreams(), []
    with closing(fed(streams, 100, closed)) as batches:
        next(batches)
    assert closed == [True] and streams.events == ["copy 0", "copy 1", "join 0"]


def test_a_fault_of_the_loader_is_raised():
    closed: list[bool] = []
    with pytest.raises(OSError, match="disk is gone"):
        list(fed(NotedStreams(), 5, closed, fault=2))
    assert closed == [True]
