"""Memory of this process: how much it holds, its limit, and how to return what is free."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from pathlib import Path

import torch

from mambamed.errors import CaseError

# What torch says on a CPU, cuDNN and cuBLAS of an allocation that failed
_WORDS = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of any device was exhausted.

    >>> is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    True
    >>> is_out_of_memory(RuntimeError("Sizes of tensors must match"))
    False
    >>> is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):  # of mmap
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def resident_bytes() -> int:
    """Memory of this process as the system counts it; its peak so far where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def give_back_freed_memory() -> None:
    """Hand what is free back to the system, which `runs.device.keep_freed_memory` keeps (glibc only)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def check_ram(further: int, max_ram: int | None, what: str) -> None:
    """Reject a case for which this process would take more memory than `max_ram`.

    Args:
        further: bytes in addition to what the process holds.
        max_ram: None: no limit.
        what: subject and verb of the message, e.g. "3 outputs of this volume need".

    Raises:
        CaseError: it would.
    """
    if max_ram is None:
        return
    if resident_bytes() + further > max_ram:
        give_back_freed_memory()  # of earlier cases
    total = resident_bytes() + further
    if total > max_ram:
        raise CaseError(
            f"{what} {total / 2**30:.1f} GiB, --max-ram allows {max_ram / 2**30:.1f}. Allow more, or cut the "
            "image."
        )
