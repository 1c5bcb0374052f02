"""`--deterministic`: the same bits every time, on the same machine and the same versions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mambamed.errors import RecipeError


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Let torch choose only operations that give the same bits each time, while the block lasts.

    Args:
        asked: nothing is done where it was not asked for.

    Raises:
        RecipeError: the device has no such form of an operation that the network needs.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be exact without it
    before = torch.are_deterministic_algorithms_enabled()
    search = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # the fastest of several ways is not always the same one
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
    """Compute on as many threads as the fold's first session: another number adds up in another order.

    Args:
        recorded: what run.json says of the fold.

    Returns:
        A line that says so where the number was changed, else None.
    """
    sessions = recorded.get("sessions", [])
    threads = sessions[0].get("torch_threads") if sessions else None
    if threads is None or threads == torch.get_num_threads():
        return None
    torch.set_num_threads(threads)
    return f"threads {threads}: as in the first session of this fold (--deterministic)"
