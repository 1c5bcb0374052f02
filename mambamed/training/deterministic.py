"""`--deterministic`: bitwise equal results on the same machine with the same versions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mambamed.errors import RecipeError


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """If `asked`, let torch choose only bitwise reproducible operations while the block lasts.

    Raises RecipeError if the device has no such form of an operation that the network needs.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    before = torch.are_deterministic_algorithms_enabled()
    search = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # the fastest algorithm is not always the same one
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        name = str(error).split(" does not have", 1)[0]
        raise RecipeError(
            f"--deterministic: {name} is not exact on this device; train on the CPU or leave the option out"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = search


def keep_threads(recorded: Mapping[str, Any]) -> str | None:
    """Use as many threads as the fold's first session, because the number determines the order of sums.

    `recorded` is the fold's entry in run.json. Returns a line if the number was changed, else None.
    """
    sessions = recorded.get("sessions", [])
    threads = sessions[0].get("torch_threads") if sessions else None
    if threads is None or threads == torch.get_num_threads():
        return None
    torch.set_num_threads(threads)
    return f"threads {threads}: as in the first session of this fold (--deterministic)"
