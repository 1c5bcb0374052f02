"""How much memory this process holds, and giving back what it does not need."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path


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
