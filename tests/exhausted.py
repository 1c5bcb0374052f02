"""What libraries raise when memory runs out, and what the line about it says."""

from __future__ import annotations

import errno
from typing import NoReturn

import numpy as np
import pytest
import torch


def numpy_error() -> MemoryError:
    try:
        np.empty((2**20, 2**20, 2**10))
    except MemoryError as error:
        return error
    raise AssertionError


def cudnn_after_a_failed_allocation() -> RuntimeError:
    error = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ...")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    return error


class OutOfResources(Exception):  # noqa: N818 - the name of Triton's class, which only a GPU machine has
    pass


# What each library raises, and what of it the line says
ERRORS = {
    "torch CPU": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "8.0 GiB",
    ),
    "torch CPU on Windows": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to "
            "allocate 8589934592 bytes."
        ),
        "8.0 GiB",
    ),
    "torch CUDA": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total capacity of 79.00 GiB of "
            "which 3.10 GiB is free. Process 1 has 75.90 GiB memory in use."
        ),
        "needs 8.0 GiB more memory, and 3.1 GiB are free",
    ),
    "CUDA": (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), "needs more memory"),
    "MPS": (
        RuntimeError(
            "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB, max allowed: "
            "18.50 GB). Tried to allocate 2.00 GB on private pool."
        ),
        "needs 2.0 GiB more memory, and 0.5 GiB are free",
    ),
    "numpy": (numpy_error(), "8388608.0 GiB more memory for an array of 1048576x1048576x1024"),
    "Python": (MemoryError(), "needs more memory than"),
    "numba": (MemoryError("Allocation failed (probably too large)."), "needs more memory than"),
    "cuDNN": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "needs more memory"),
    "cuDNN without workspace": (cudnn_after_a_failed_allocation(), "needs more memory"),
    "cuBLAS": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "needs more memory",
    ),
    "Triton": (
        OutOfResources("out of resource: shared memory, Required: 167772160, Hardware limit: 134217728."),
        "needs 0.2 GiB more memory, and 0.1 GiB are free",
    ),
    "C++": (RuntimeError("std::bad_alloc"), "needs more memory than"),
    "mmap": (OSError(errno.ENOMEM, "Cannot allocate memory"), "needs more memory than"),
    "ITK": (
        RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."),
        "needs more memory than",
    ),
}
every_library = pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)


def fails(error: Exception):
    """A function that raises the error, whatever it is given."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail
