"""Batches, read ahead by threads."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from mambamed.batches import loader
from mambamed.batches.loader import PatchReader, batches_ahead
from mambamed.batches.sampler import Sampler
from mambamed.recipe import Augment
from mambamed.tasks.cases import LabeledCase
from tests.batches.memory_case import MemoryCase, blob_case


def make(threads_cases=4, patch=(12, 12, 12)):
    cases = {f"c{i}": blob_case(seed=i, channels=2) for i in range(threads_cases)}
    cases = {name: LabeledCase(case) for name, case in cases.items()}
    return Sampler(cases, patch, 2, 0.5, (0, 0)), PatchReader(cases, patch, Augment(), (1, 1, 1))


def test_batches_come_in_order_and_do_not_depend_on_the_threads():
    sampler, reader = make()
    one = list(batches_ahead(sampler, reader, 0, 6, threads=1))
    four = list(batches_ahead(sampler, reader, 0, 6, threads=4))
    assert len(one) == len(four) == 6
    for a, b in zip(one, four, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.target, b.target)
        assert a.case_ids == b.case_ids


def test_a_later_start_gives_the_same_batches():
    sampler, reader = make()
    whole, rest = (list(batches_ahead(sampler, reader, first, 5)) for first in (0, 3))
    assert torch.equal(whole[3].image, rest[0].image) and torch.equal(whole[4].image, rest[1].image)


def test_shapes_and_types():
    sampler, reader = make()
    batch = next(iter(batches_ahead(sampler, reader, 0, 1)))
    assert batch.image.shape == (2, 2, 12, 12, 12) and batch.image.dtype == torch.float32
    assert batch.target.shape == (2, 12, 12, 12) and batch.target.dtype == torch.uint8


def test_no_more_batches_are_made_than_threads_and_two():
    sampler, reader = make()
    made = []
    original = reader.batch
    reader.batch = lambda requests: made.append(1) or original(requests)  # type: ignore[method-assign]
    with closing(batches_ahead(sampler, reader, 0, 1000, threads=2)) as batches:
        next(batches)
        assert len(made) <= 4


def test_a_fault_in_a_thread_is_raised_and_the_threads_end():
    class Broken(MemoryCase):
        def image(self, box=None):
            raise OSError("the disk is gone")

    case = Broken(np.zeros((1, 8, 8, 8), np.float16), np.ones((8, 8, 8), np.uint8))
    cases = {"c": LabeledCase(case)}
    sampler = Sampler(cases, (8, 8, 8), 1, 0.5, (0,))
    reader = PatchReader(cases, (8, 8, 8), None, (1, 1, 1))
    with pytest.raises(OSError, match="disk is gone"):
        list(batches_ahead(sampler, reader, 0, 5))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_the_threads_encode_and_check_the_labels():
    sampler, plain = make()
    doubled = PatchReader(
        plain._cases, (12, 12, 12), Augment(), (1, 1, 1), lambda labels, shape: labels.long() * 2
    )
    for a, b in zip(
        batches_ahead(sampler, plain, 0, 3), batches_ahead(sampler, doubled, 0, 3, threads=3), strict=True
    ):
        assert b.target.dtype == torch.int16  # a quarter of the bytes
        image, target = b.on(torch.device("cpu"), torch.contiguous_format)
        assert torch.equal(image, a.image) and torch.equal(target, a.target.long() * 2)

    def refuse(labels, shape):
        raise ValueError(f"labels of {shape}, in {threading.current_thread().name}")

    strict = PatchReader(plain._cases, (12, 12, 12), None, (1, 1, 1), refuse)
    with pytest.raises(ValueError, match=r"labels of \(12, 12, 12\), in batches"):
        next(batches_ahead(sampler, strict, 0, 3))


@pytest.mark.parametrize(("cores", "processes", "threads"), [(16, 1, 12), (8, 1, 7), (16, 4, 3), (2, 2, 2)])
def test_a_gpu_is_fed_by_as_many_threads_as_there_are_cores(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(loader, "cores", lambda: cores)
    assert loader.loader_threads(torch.device("cuda"), processes) == threads
    assert loader.loader_threads(torch.device("cpu"), processes) == 2  # the network needs the cores


def test_batches_of_a_gpu_are_pinned_by_the_threads(monkeypatch):
    pinned = []

    def pin_memory(tensor):
        pinned.append(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    sampler, reader = make()
    plain, fixed = (list(batches_ahead(sampler, reader, 0, 2, pin=pin)) for pin in (False, True))
    assert len(pinned) == 4 and all(name.startswith("batches") for name in pinned)
    assert all(torch.equal(a.image, b.image) for a, b in zip(plain, fixed, strict=True))
