"""`--gpus N`: one process per GPU of this machine, each of which keeps the networks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from mambamed.cores import THREADS, cores
from mambamed.errors import RecipeError
from mambamed.preparation.pool import begin_worker


class GpuPool:
    """Spawned processes, each of which sees one GPU; see `preparation.pool.Pool`.

    Args:
        gpus: number of processes.
        device: that each of them asks for.

    Raises:
        RecipeError: there are fewer GPUs, or the device is none of several.
    """

    queue, breaks, worker = 2, True, "process"

    def __init__(self, gpus: int, device: str = "auto") -> None:
        import torch

        if device not in ("auto", "cuda"):
            raise RecipeError(f"--gpus {gpus}: --device {device} is one device. Remove one of the options.")
        there = torch.cuda.device_count()
        if gpus > there:
            raise RecipeError(f"--gpus {gpus}: torch sees {there} CUDA devices. Ask for fewer.")
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [name.strip() for name in named.split(",")] if named else [str(n) for n in range(there)]
        self._names = names[:gpus]

    @contextmanager
    def open(self, number: int) -> Iterator[Executor]:
        context = multiprocessing.get_context("spawn")
        names = context.SimpleQueue()
        for name in self._names:
            names.put(name)
        number = min(number, len(self._names))
        with ProcessPoolExecutor(number, context, _begin, (names, max(1, cores() // number))) as executor:
            yield executor

    def remedy(self) -> str:
        return "possibly for lack of memory. Use fewer --gpus, or leave the case out."


def _begin(names: Any, threads: int) -> None:
    """In a process, before torch is imported: choose its GPU, and its share of the cores."""
    os.environ["CUDA_VISIBLE_DEVICES"] = names.get()
    for name in THREADS:
        os.environ.setdefault(name, str(threads))
    begin_worker()
