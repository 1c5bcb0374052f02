"""Where a result comes from: versions, commit, command, device; written to run.json without being asked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import mambamed
from mambamed.io.members import Source, opened

_BLOCK = 2**20
_PACKAGES = ("torch", "numpy", "numba", "scipy", "blosc2", "safetensors", "nibabel", "SimpleITK")


def provenance() -> dict[str, Any]:
    """Versions of everything that computes, the commit of mambamed's sources, the command, the machine."""
    versions = {"mambamed": mambamed.__version__, "python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions,
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def sha256_of(source: Source) -> str:
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.sha256()
    with opened(source) as (file, left):
        while block := file.read(min(left, _BLOCK)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def git_commit() -> str | None:
    """The commit of mambamed's sources, with "+" where they were changed since; None outside of git."""
    sources = Path(mambamed.__file__).resolve().parent
    if not (sources.parent / ".git").exists():
        return None
    try:
        commit = _git(sources, "rev-parse", "HEAD")
        changed = _git(sources, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
