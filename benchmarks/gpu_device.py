"""The device of `gpu_check.py`: its clock, memory and rows; and the task `machine`."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_rows import append_row, cell

from mambamed.run.device import choose_precision
from mambamed.ssm.launch import launch
from mambamed.ssm.scan import BACKENDS, chosen_backend, why_unavailable


class Here:
    """The device, the sizes of the tasks, and where rows are written."""

    def __init__(self, device: str, small: bool, out: Path) -> None:
        self.device, self.small, self.out = torch.device(device), small, out
        self.edge, self.batch, self.steps = (32, 1, 1) if small else (128, 2, 5)
        self.task = ""

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    def precision(self, wanted: str) -> str:
        """The precision of a task: on a CPU, where bf16 may take 15 times longer, the one that suits it."""
        return wanted if self.on_gpu else choose_precision("auto", self.device)[0]

    def row(self, **facts: Any) -> None:
        """Write and print one row of the current task."""
        row = {"task": self.task, **facts}
        append_row(self.out / "rows.jsonl", row)
        hidden = ("top", "traceback")
        print(" ".join(f"{k}={cell(v)[:70]}" for k, v in row.items() if k not in hidden), flush=True)

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], Any], repeats: int = 10) -> float:
        """Median time of some work on the device, after two unmeasured runs; fewer repeats of slow work."""
        began = time.perf_counter()
        for _ in range(2 if self.on_gpu else 1):
            began = time.perf_counter()
            work()
            self.wait()
        if time.perf_counter() - began > 0.2:
            repeats = 3
        times = []
        for _ in range(repeats if self.on_gpu else 2):
            if self.on_gpu:
                a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                a.record()
                work()
                b.record()
                b.synchronize()
                times.append(a.elapsed_time(b))
            else:
                began = time.perf_counter()
                work()
                times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times)

    def free(self) -> None:
        """Release unused memory, and reset the peaks."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, float]:
        """Largest memory allocated and reserved since `free`, GiB."""
        if not self.on_gpu:
            return {}
        return {
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
        }


def usable_backends(here: Here) -> list[str]:
    """Scan backends that work on the device, the chosen one first."""
    names = ["triton", "cuda", "chunked"] if here.on_gpu else ["cpu", "triton", "chunked"]
    first = chosen_backend(here.device)[0]
    names = [first, *(name for name in names if name != first)]
    return [name for name in names if why_unavailable(name) is None]


def machine(here: Here) -> None:
    """Device, versions, and three ceilings."""
    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "numba", "triton", "mambapy", "selective_scan_cuda"):
        with contextlib.suppress(Exception):
            facts[name] = getattr(importlib.import_module(name), "__version__", "installed")
    facts |= {"cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}
    facts["scan"] = chosen_backend(here.device)[0]
    facts["backends"] = {name: why_unavailable(name) or "usable" for name in BACKENDS}
    if here.on_gpu:
        about = torch.cuda.get_device_properties(0)
        facts |= {"gpu": about.name, "capability": f"{about.major}.{about.minor}"}
        facts |= {"multiprocessors": about.multi_processor_count}
        facts |= {"gpu_gib": round(about.total_memory / 2**30, 1), "cudnn": torch.backends.cudnn.version()}
    source = torch.randn((2**20 if here.small else 2**30) // 4, device=here.device)
    target = torch.empty_like(source)
    facts["copy_gb_s"] = round(2 * source.nbytes / here.milliseconds(lambda: target.copy_(source)) / 1e6, 1)
    n = 256 if here.small else 8192
    a, b = (torch.randn(n, n, device=here.device, dtype=torch.bfloat16) for _ in range(2))
    facts["bf16_tflops"] = round(2 * n**3 / here.milliseconds(lambda: a @ b) / 1e9, 1)
    if here.on_gpu:
        with contextlib.suppress(ImportError):
            facts["exp2_g_s"] = round(exp2_rate(here) / 1e9)
        pinned = torch.empty(2**28, dtype=torch.uint8).pin_memory()
        there = torch.empty(2**28, dtype=torch.uint8, device=here.device)
        pinned_ms = here.milliseconds(lambda: there.copy_(pinned, True))
        paged = torch.empty(2**28, dtype=torch.uint8).fill_(1)
        paged_ms = here.milliseconds(lambda: there.copy_(paged))
        facts["pinned_to_gpu_gb_s"] = round(2**28 / pinned_ms / 1e6, 1)
        facts["pageable_to_gpu_gb_s"] = round(2**28 / paged_ms / 1e6, 1)
    here.row(**facts)


def exp2_rate(here: Here) -> float:
    """Exponentials per second at most."""
    from gpu_kernels import exp2_chains  # needs Triton

    programs, block, turns = 132 * 32, 1024, 256
    x = torch.rand(programs * block, device=here.device)
    ms = here.milliseconds(lambda: launch(exp2_chains, programs, x, turns, BLOCK=block, num_warps=4))
    return programs * block * turns * 4 / ms * 1000


def kernels_of(watched: Any) -> list[tuple[str, float]]:
    """Name and milliseconds of each kernel that a profile saw on the device."""
    cuda = torch.profiler.DeviceType.CUDA
    return [(e.name, e.device_time_total / 1000) for e in watched.events() or () if e.device_type == cuda]
