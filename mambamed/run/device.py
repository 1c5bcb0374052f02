"""Where to compute, how precisely, and why: every choice comes with its reason, for the log and run.json."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from mambamed.errors import RecipeError
from mambamed.numerals import is_whole

PRECISIONS = ("bf16", "fp16", "fp32")
_PLACES = ("LOCAL_RANK", "SLURM_LOCALID")

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def choose_device(wanted: str = "auto") -> tuple[torch.device, str]:
    """The device to compute on, and why.

    `wanted`: "auto" (an accelerator where there is one), "cpu", "cuda", "cuda:1" or "mps". Raises
    RecipeError: the device is not there.

    >>> choose_device("cpu")
    (device(type='cpu'), 'asked for')
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return _current_gpu(), f"{torch.cuda.get_device_name()} is available"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple's GPU is available"
        return torch.device("cpu"), "no GPU that torch can use"
    kind, _, index = wanted.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not is_whole(index)):
        raise RecipeError(f"--device {wanted}: no such device. Choose auto, cpu, cuda or mps.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RecipeError(
            f"--device {wanted}: torch {torch.__version__} sees {count} CUDA devices. Choose cpu."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("--device mps: torch cannot use Metal on this machine. Choose cpu.")
    return _current_gpu() if wanted == "cuda" else torch.device(wanted), "asked for"


def _current_gpu() -> torch.device:
    """With its number, which some functions of torch.cuda require."""
    return torch.device("cuda", torch.cuda.current_device())


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The float type of the network's products, and why: "bf16", "fp16" or "fp32".

    Parameters, normalizations' statistics, scan states and losses are float32 whatever is chosen.

    Args:
        wanted: "auto" = bf16 where the device computes it fast, else fp32; or one of the three.
        device: from `choose_device`.

    Raises RecipeError: the device cannot compute in the type that is asked for.

    >>> choose_precision("fp32", torch.device("cpu"))
    ('fp32', 'asked for')
    """
    if wanted not in ("auto", *PRECISIONS):
        raise RecipeError(f"--precision {wanted}: choose auto, {', '.join(PRECISIONS)}")
    bf16, reason = _fast_bf16(device)
    if wanted == "auto":
        return ("bf16" if bf16 else "fp32"), reason
    if wanted == "fp16" and device.type != "cuda":
        raise RecipeError(f"--precision fp16: needs a CUDA device, got {device.type}. Choose bf16 or fp32.")
    if wanted == "bf16" and device.type == "mps":
        raise RecipeError("--precision bf16: not supported on mps. Choose fp32.")
    return wanted, "asked for" + (f", although {reason}" if wanted == "bf16" and not bf16 else "")


def _fast_bf16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return True, "the GPU computes bf16"
        return False, "the GPU is older than bf16"
    if device.type == "mps":
        return False, "bf16 is not tried on mps"
    flags = _cpu_flags()
    for flag in ("amx_bf16", "avx512_bf16"):
        if flag in flags:
            return True, f"the CPU has {flag}"
    return False, "the CPU has neither avx512_bf16 nor amx_bf16"


def _cpu_flags() -> set[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere, where fp32 is the safe choice."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which the network runs: autocast to `precision`, or nothing for "fp32"."""
    if precision == "fp32":
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)


def memory_format(device: torch.device, precision: str, training: bool = False) -> torch.memory_format:
    """How 5-D tensors lie in memory: channels last on the CPU where it is faster, else contiguous.

    On CUDA it is contiguous, because channels last has not been measured there.

    Args:
        training: whether gradients are computed, or only results.

    Source:
        Measured with 3D U-Nets. AVX-512: bf16 convolutions are more than twice as fast with channels last,
        float32 ones slower. AVX2 without AVX-512, float32, forward and backward: channels last takes 0.71 to
        1.0 of the time of contiguous (8 to 32 channels, one and two threads), forward alone 0.74 to 1.35.
    """
    if device.type != "cpu":
        return torch.contiguous_format
    wins = precision == "bf16" or (training and _is_avx2_at_most(_cpu_flags()))
    return torch.channels_last_3d if wins else torch.contiguous_format


def _is_avx2_at_most(flags: set[str]) -> bool:
    return "avx2" in flags and "avx512f" not in flags


def set_cudnn(search: bool) -> str:
    """Set how cuDNN computes in this process; returns a line for the log.

    TF32 is left at torch's defaults: convolutions in fp32 round their factors to 10 bits of mantissa, as in
    nnU-Net, matrix products do not.

    Args:
        search: whether cuDNN measures its algorithms at the first call of each shape. This is faster for
            training patches of one size, but the next run may use an algorithm that rounds differently.
    """
    torch.backends.cudnn.benchmark = search
    how = "measures its algorithms" if search else "chooses its algorithms by rules"
    tf32 = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
    products = "TF32" if torch.backends.cuda.matmul.allow_tf32 else "float32"
    return f"cuDNN {how}; at fp32: convolutions in {tf32}, matrix products in {products}"


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed instead of handing it back to the kernel; True where that works.

    A network's activations are freed and asked for again at every step. glibc maps each large one again and
    the kernel clears its pages: a third of the time of a CPU training went there (nnU-Net, page faults
    3.4 million -> 4 thousand). To be called before the first large allocation; the process's peak of memory
    does not change, but it stays at its peak. Elsewhere than on glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**30
    return bool(mallopt(_M_MMAP_THRESHOLD, largest) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def peak_memory(device: torch.device) -> float:
    """Bytes at most held on the device so far; of the process for the CPU; NaN where it cannot be known."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu" or sys.platform == "win32":
        return float("nan")
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def own_gpu(count: int, environment: Mapping[str, str] | None = None) -> int | None:
    """Number of the GPU that is this process's, where torchrun or SLURM started several on one machine.

    Args:
        count: GPUs that this process sees.
        environment: (default: that of the process).

    Returns: None where it is one process, or sees one GPU: then there is nothing to choose.

    >>> own_gpu(4, {"LOCAL_RANK": "2"}), own_gpu(2, {"SLURM_LOCALID": "3"}), own_gpu(1, {"LOCAL_RANK": "1"})
    (2, 1, None)
    """
    environment = os.environ if environment is None else environment
    places = [environment[name] for name in _PLACES if is_whole(environment.get(name, ""))]
    return int(places[0]) % count if places and count > 1 else None
