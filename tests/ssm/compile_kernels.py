"""Triton kernels as they are launched for tensors without data, compiled for a device that is not there."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.ssm import launch


class Driver:
    """As much of a Triton driver as compiling needs."""

    def __init__(self, architecture: int | str) -> None:
        from triton.backends.compiler import GPUTarget

        if isinstance(architecture, int):
            self.target = GPUTarget("cuda", architecture, 32)
        else:
            self.target = GPUTarget("hip", architecture, 64)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        return 0


@dataclass
class Variant:
    """A kernel as Triton distinguishes it: types, divisibility and constants; compiled if that was asked."""

    name: str
    key: str
    compiled: Any = None

    def spilled_bytes(self, folder: Path) -> int:
        """Bytes of stack a thread, as NVIDIA's cuobjdump in Triton's wheel reads them from a cubin."""
        return self._usage(folder)["STACK"]

    def registers(self, folder: Path) -> int:
        return self._usage(folder)["REG"]

    def _usage(self, folder: Path) -> dict[str, int]:
        import triton

        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        path = folder / "kernel.cubin"
        path.write_bytes(self.compiled.asm["cubin"])
        usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
        return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", usage)}


@contextlib.contextmanager
def launches(monkeypatch, architecture: int | str = 90, build: bool = False) -> Iterator[dict[str, Variant]]:
    """The variants of kernels that are launched in this context; nothing runs."""
    from triton import knobs
    from triton.runtime.driver import driver

    found: dict[str, Variant] = {}

    def launch_nothing(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        def note(*, key: str, **_: Any) -> bool:
            name = f"{kernel.fn.__name__} {key}"
            found.setdefault(name, Variant(kernel.fn.__name__, key))
            return not build  # true: do not compile

        kernel.device_caches.clear()
        monkeypatch.setattr(knobs.runtime, "jit_cache_hook", note)
        result = kernel.warmup(*arguments, grid=(programs,), **options)
        if build:
            next(v for v in reversed(found.values()) if v.name == kernel.fn.__name__).compiled = result

    monkeypatch.setattr(launch, "launch", launch_nothing)
    driver.set_active(Driver(architecture))
    try:
        yield found
    finally:
        driver._active = None
