"""Blocks come back when their last tensor is gone, and only then."""

import gc

import pytest
import torch

from mambamed.ssm import kept_memory


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch) -> None:
    """Without what earlier tests left, in use or in reference cycles: it would come back in between."""
    gc.collect()
    monkeypatch.setattr(kept_memory, "_free", [])


def test_a_block_is_used_again_once_nothing_looks_at_it() -> None:
    count = kept_memory.SMALLEST * 3
    first = kept_memory.empty(3, kept_memory.SMALLEST)
    address, view = first.data_ptr(), first[1:, 5]
    del first
    gc.collect()
    other = kept_memory.empty(count)
    assert other.data_ptr() != address  # `view` still looks at the first
    del view
    gc.collect()
    assert kept_memory.empty(count).data_ptr() == address


def test_no_more_than_the_limit_is_kept(monkeypatch) -> None:
    monkeypatch.setattr(kept_memory, "LIMIT", kept_memory.SMALLEST * 2)
    blocks = [kept_memory.empty(kept_memory.SMALLEST) for _ in range(5)]
    blocks.clear()
    gc.collect()
    assert 0 < sum(b.size for b in kept_memory._free) <= kept_memory.SMALLEST * 2


def test_small_tensors_are_torchs_own() -> None:
    assert kept_memory.empty(2, 3).shape == (2, 3)
    assert kept_memory.empty(2, 3).dtype == torch.float32
