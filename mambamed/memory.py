"""Memory: how much there is, how much this process holds, and what libraries say when it runs out."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambamed.errors import CaseError, MambamedError

# What torch, CUDA, cuDNN, cuBLAS, MPS, ITK and C++ say of an allocation that failed
_WORDS = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|not enough memory|ALLOC_FAILED|bad_alloc"
    r"|memory allocation (error|failed)",
    re.IGNORECASE,
)
_CLASSES = {"OutOfMemoryError", "OutOfResources"}  # of torch and Triton, which are not imported for them
_DEVICE = re.compile(r"CUDA|HIP|CUDNN|CUBLAS|MPS|out of resource", re.IGNORECASE)
_SIZE = r"(\d[\d.]*) ?(bytes|[KMGTPE]i?B)?"
_ASKED = re.compile(rf"(?:tried to allocate|unable to allocate|required:) {_SIZE}", re.IGNORECASE)
_FREE = re.compile(rf"(?:of which|limit:) {_SIZE}", re.IGNORECASE)
_MPS = re.compile(rf"MPS allocated: {_SIZE}, other allocations: {_SIZE}, max allowed: {_SIZE}")
_ARRAY = re.compile(r"with shape \(([\d, ]+)\)")


def is_out_of_memory(error: BaseException, after: bool = False) -> bool:
    """Whether an error of any library means that the memory of any device was exhausted.

    Args:
        error: raised by Python or a library; errors of mambamed say themselves what they mean.
        after: whether memory ran out just before, so that cuDNN may find no algorithm for lack of workspace.

    >>> is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    True
    >>> is_out_of_memory(RuntimeError("Sizes of tensors must match"))
    False
    >>> is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    True
    """
    if isinstance(error, MemoryError) or type(error).__name__ in _CLASSES:
        return True
    if isinstance(error, OSError):  # of mmap
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError) or isinstance(error, MambamedError):
        return False
    before = error.__cause__ or error.__context__
    if "CUDNN_STATUS_NOT_SUPPORTED" in str(error):
        return after or (before is not None and is_out_of_memory(before))
    return bool(_WORDS.search(str(error)))


def is_of_device(error: BaseException) -> bool:
    """Whether it is a GPU whose memory was exhausted."""
    return bool(_DEVICE.search(f"{type(error).__name__} {error}")) or type(error).__name__ == "OutOfResources"


def shortage(error: BaseException) -> str:
    """What was asked for and what is free, as far as the library or the system says; follows a subject.

    >>> shortage(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    ... "79.00 GiB of which 512.00 MiB is free."))
    'needs 2.0 GiB more memory, and 0.5 GiB are free'
    """
    text = str(error)
    free: float | None = None
    if found := _FREE.search(text):
        free = _bytes_of(*found.groups())
    elif found := _MPS.search(text):
        held, other, most = (_bytes_of(*found.groups()[n : n + 2]) for n in (0, 2, 4))
        free = most - held - other
    else:
        free = _free_on_device() if is_of_device(error) else free_memory_bytes()
    if (asked := _ASKED.search(text)) is None:
        return f"needs more memory than {'is free' if free is None else f'the {gib(free)} that are free'}"
    found = _ARRAY.search(text)
    array = f" for an array of {found[1].replace(', ', 'x').strip(',')}" if found else ""
    least = "" if free is None else f", and {gib(free)} are free{'' if _FREE.search(text) else ' now'}"
    return f"needs {gib(_bytes_of(*asked.groups()))} more memory{array}{least}"


@contextmanager
def case_too_large(prefix: str = "") -> Iterator[None]:
    """Within the block, or the decorated function, exhausted memory is the fault of one case.

    Args:
        prefix: of the line, e.g. the case, where whoever prints it does not know it.

    Raises:
        CaseError: memory was exhausted; the others continue.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # Without the traceback, whose frames hold what the next case needs.
        raise CaseError(f"{prefix}{too_large(error)}") from error.with_traceback(None)


def too_large(error: BaseException) -> str:
    """The line for a case that the memory does not hold."""
    remedy = "Use --device cpu" if is_of_device(error) else "Free memory"
    return f"{shortage(error)}. {remedy}, or crop the image."


def memory_bytes() -> int:
    """Memory of this machine, as far as this process may use it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


NEGLIGIBLE_BYTES = 2**26  # below, finding out what is free takes longer than the work


def free_memory_bytes() -> int | None:
    """Memory that a process of this machine can take now; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if not found:
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # ulimit -v
    own = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    left = found[0] * 1024 if limit == resource.RLIM_INFINITY else min(found[0] * 1024, max(limit - own, 0))
    return min(left, memory_bytes())


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
    """Hand what is free back to the system, which `run.device.keep_freed_memory` keeps (glibc only)."""
    if platform.libc_ver()[0] == "glibc":
        import ctypes  # late: for the start of every command

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


def _bytes_of(number: str, unit: str | None) -> float:
    """
    >>> _bytes_of("2", "GiB") == 2**31, _bytes_of("7", None)
    (True, 7.0)
    """
    powers = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
    return float(number) * 1024 ** (powers.get(unit[0].upper(), 0) if unit else 0)


def gib(count: float) -> str:
    """A number of bytes for a message.

    >>> gib(3 * 2**30), gib(2**20)
    ('3.0 GiB', '1.0 MiB')
    """
    if count >= 2**60:
        return f"{count / 2**30:.2g} GiB"
    return f"{count / 2**30:.1f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"


def _free_on_device() -> float | None:
    """Bytes that are free on the current CUDA device, if this process uses one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda.mem_get_info()[0]
