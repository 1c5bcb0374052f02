"""What this machine gives to work with, and what to do about what it lacks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mambamed
from mambamed.errors import MambamedError
from mambamed.io.atomic import check_writable

State = Literal["good", "limited", "absent", "bad"]

# Extra of pyproject.toml -> the modules that it installs, and what they are for.
EXTRAS = {
    "dicom": (("pydicom", "highdicom"), "writing masks as DICOM segmentations"),
    "triton": (("triton",), "the scan on GPUs without a CUDA build"),
    "cuda": (("mamba_ssm", "causal_conv1d"), "the compiled kernels of mamba-ssm"),
    "baselines": (("monai", "einops"), "UNETR, SwinUNETR, SegResNet, ViT"),
    "tensorboard": (("tensorboard",), "curves of a training in TensorBoard"),
    "wandb": (("wandb",), "curves of a training in Weights & Biases"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export to ONNX"),
    "cluster": (("distributed", "dask_jobqueue"), "cases on several machines, by Dask"),
    "kubernetes": (("dask_kubernetes",), "cases in pods of Kubernetes"),
    "hub": (("huggingface_hub",), "models on the Hugging Face Hub"),
}
_NEEDED = (
    "numpy", "scipy", "SimpleITK", "nibabel", "pydantic", "blosc2", "isal", "safetensors", "matplotlib",
)  # fmt: skip
_GIB = 2**30
_DISK_GIB, _SHARED_GIB, _MEMORY_GIB = 20, 1, 8


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State  # "good"; "limited" works with less; "absent" is not here and need not be; "bad" stops work
    fact: str  # what was found
    advice: str = ""  # what to do; empty where nothing is to be done


@dataclass(frozen=True)
class Examination:
    """All checks, in the order in which they are read."""

    version: str
    checks: tuple[Check, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing stops work."""
        return all(check.state != "bad" for check in self.checks)


def examine_machine(folder: Path = Path()) -> Examination:
    """Look at Python, torch, devices, scan backends, memory, disks, folders and optional packages.

    Nothing is changed but a file written and removed in each folder. `folder`: in which the work is to be
    done.
    """
    looks: list[Callable[[], list[Check]]] = [
        _python, _packages, _torch, _devices, _backends, _numba, _memory,
        lambda: [_disk("disk of the folder", folder), _disk("disk of temporary files", _temporary())],
        _shared_memory,
        lambda: [_folder("folder", folder), _folder("temporary folder", _temporary())],
        _extras,
    ]  # fmt: skip
    return Examination(mambamed.__version__, tuple(check for look in looks for check in _looked(look)))


def _looked(look: Callable[[], list[Check]]) -> list[Check]:
    """What a look gives; on a machine so broken that it fails, that is what there is to tell."""
    try:
        return look()
    except Exception as error:
        name = look.__name__.strip("_<>")
        return [Check(name, "bad", f"{type(error).__name__}: {error}", "repair or reinstall it")]


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none can be written
        return Path(os.environ.get("TMPDIR") or "/tmp")


def _python() -> list[Check]:
    bits = 8 * struct.calcsize("P")
    fact = f"{platform.python_version()}, {bits} bits, {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 10) or bits < 64:
        return [Check("Python", "bad", fact, "install a 64-bit Python 3.10 or newer")]
    return [Check("Python", "good", fact)]


def _packages() -> list[Check]:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        advice = "reinstall mambamed: pip install mambamed"
        return [Check("packages", "bad", f"missing: {', '.join(missing)}", advice)]
    return [Check("packages", "good", ", ".join(f"{name} {_version(name)}" for name in _NEEDED))]


def _torch() -> list[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    fact = f"{torch.__version__}, {threads} threads on {cores} cores"
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < (2, 5):
        return [Check("torch", "bad", fact, "install torch 2.5 or newer")]
    if threads < cores:
        return [Check("torch", "limited", fact, f"set OMP_NUM_THREADS={cores}, or unset it")]
    return [Check("torch", "good", fact)]


def _devices() -> list[Check]:
    import torch

    from mambamed.run.device import choose_device, choose_precision

    device, reason = choose_device("auto")
    precision, why = choose_precision("auto", device)
    chosen = Check("chosen", "good", f"{device.type} ({reason}), {precision} ({why})")
    return [_cuda(), _mps(torch.backends.mps.is_built(), torch.backends.mps.is_available()), chosen]


def _cuda() -> Check:
    import torch

    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            major, minor = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            found.append(f"{name} ({major}.{minor}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free)")
        return Check("CUDA", "good", f"{torch.version.cuda}: {'; '.join(found)}")
    driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    if torch.version.cuda is None:
        advice = "install a torch with CUDA (pytorch.org, Get Started)" if driver else ""
        what = ", though an NVIDIA driver is there" if driver else ""
        fact = f"this torch is built without it{what}"
        return Check("CUDA", "limited" if driver else "absent", fact, advice)
    advice = "update the NVIDIA driver, or give the container its GPUs" if driver else ""
    return Check("CUDA", "absent", f"torch is built for CUDA {torch.version.cuda} but sees no device", advice)


def _mps(built: bool, available: bool) -> Check:
    if available:
        return Check("MPS", "good", "Apple's GPU can be used")
    if built:
        return Check("MPS", "absent", "built, but not usable", "macOS 14 or newer is needed")
    return Check("MPS", "absent", "no Apple GPU")


def _backends() -> list[Check]:
    """Each backend of the scan: used on which device, or why it cannot serve."""
    import torch

    from mambamed.ssm.scan import BACKENDS, VARIABLE, chosen_backend, why_unavailable

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    checks, chosen = [], {}
    try:
        chosen = {device: chosen_backend(device)[0] for device in devices}
    except ValueError as error:
        checks.append(Check(VARIABLE, "bad", str(error), "name another backend there, or unset it"))
    for name in BACKENDS:
        reason = why_unavailable(name)
        used = [device for device, backend in chosen.items() if backend == name]
        if reason is None:
            fact = f"usable; chosen on {', '.join(used)}" if used else "usable"
            checks.append(Check(f"scan: {name}", "good", fact))
            continue
        state: State = "limited" if name == "cpu" or (name == "triton" and "cuda" in devices) else "absent"
        checks.append(Check(f"scan: {name}", state, reason, _ADVICE[name] if state == "limited" else ""))
    return checks


_ADVICE = {
    "cpu": "install numba for this Python; until then the scan is several times slower",
    "triton": "pip install 'mambamed[triton]' makes the scan on the GPU many times faster",
}


def _numba() -> list[Check]:
    from numba.core import config

    from mambamed.numba_cache import cache_folder

    fact = f"{_version('numba')}, {config.NUMBA_NUM_THREADS} threads"  # type: ignore[attr-defined]
    if folder := cache_folder():
        return [Check("numba", "good", f"{fact}; compiled code is kept in {folder}")]
    advice = "set NUMBA_CACHE_DIR to a folder that can be written; otherwise each process compiles again"
    return [Check("numba", "limited", f"{fact}; no folder for compiled code", advice)]


def _memory() -> list[Check]:
    from mambamed.memory import memory_bytes

    total = memory_bytes() / _GIB
    if total < _MEMORY_GIB:
        advice = "give --max-ram to prepare and predict, a smaller training.patch_size to train"
        return [Check("memory", "limited", f"{total:.1f} GiB", advice)]
    return [Check("memory", "good", f"{total:.1f} GiB")]


def _disk(name: str, folder: Path) -> Check:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    if free < 0.1:
        return Check(name, "bad", f"{free * 1024:.0f} MiB free", "free some space, or take another folder")
    if free < _DISK_GIB:
        return Check(name, "limited", f"{free:.1f} GiB free", "a prepared dataset may take more")
    return Check(name, "good", f"{free:.0f} GiB free")


def _shared_memory() -> list[Check]:
    """Where processes that load batches hand them over."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        if sys.platform == "linux":
            advice = "start the container with --shm-size=8g; until then --workers has no effect"
            return [Check("shared memory", "limited", f"{shared}: no such folder", advice)]
        return [Check("shared memory", "good", "has no limit of its own here")]
    total, _, free = shutil.disk_usage(shared)
    fact = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < _SHARED_GIB * _GIB:
        return [Check("shared memory", "limited", fact, "start the container with --shm-size=8g")]
    return [Check("shared memory", "good", fact)]


def _folder(name: str, folder: Path) -> Check:
    refusal = _refusal(folder)
    if refusal is None:
        return Check(name, "good", "can be written")
    return Check(name, "bad", refusal, "choose another folder, or ask for the permission")


def _refusal(folder: Path) -> str | None:
    """Why no file can be written there; None where one can. A folder that is not there is not made."""
    if not folder.is_dir():
        return f"{folder}: no such folder"
    try:
        check_writable(folder)
    except MambamedError as error:
        return str(error).partition("; ")[0]
    return None


def _extras() -> list[Check]:
    checks = []
    for extra, (modules, purpose) in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            advice = f"pip install 'mambamed[{extra}]' for {purpose}"
            checks.append(Check(f"extra: {extra}", "absent", f"no {', '.join(missing)}", advice))
        else:
            fact = ", ".join(f"{name} {_version(name)}" for name in modules)
            checks.append(Check(f"extra: {extra}", "good", fact))
    return checks


def _version(module: str) -> str:
    for name in (module, module.replace("_", "-")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "of unknown version"
