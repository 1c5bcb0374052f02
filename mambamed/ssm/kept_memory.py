"""Reuse of the memory of large CPU tensors.

The system provides memory page by page and clears each at its first use: for a tensor of some megabytes that
takes as long as the scan that fills it (twice as long on two threads, which wait for each other). Blocks
allocated here return when the last tensor that uses them is deleted, and serve the next request of similar
size.
"""

from __future__ import annotations

import threading
import weakref
from math import prod

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1 << 18  # numbers (1 MiB); the C library itself keeps smaller blocks
LIMIT = 1 << 27  # numbers (512 MiB) of unused blocks; beyond it the oldest are freed

_lock = threading.RLock()  # a finalizer may run inside `empty` itself
_free: list[np.ndarray] = []


def empty(*shape: int) -> Tensor:
    """An uninitialized float32 CPU tensor, from kept memory if it is large."""
    count = prod(shape)
    if count < SMALLEST:
        return torch.empty(*shape, dtype=torch.float32, device="cpu")
    block = _take(count)
    view = block[:count]
    weakref.finalize(view, _give_back, block).atexit = False
    return torch.from_numpy(view).view(*shape)


def zeros(*shape: int) -> Tensor:
    """Like `empty`, but zero. Neither depends on torch's default dtype or device."""
    return empty(*shape).zero_()


def _take(count: int) -> np.ndarray:
    with _lock:
        fitting = [i for i, block in enumerate(_free) if count <= block.size <= count + count // 2]
        if fitting:
            return _free.pop(min(fitting, key=lambda i: _free[i].size))
    return np.empty(count, np.float32)


def _give_back(block: np.ndarray) -> None:
    with _lock:
        _free.append(block)
        while sum(b.size for b in _free) > LIMIT:
            del _free[0]
