"""What a training needs of the machine, checked before its first step."""

from __future__ import annotations

from collections.abc import Collection

from mambamed.documents.splits import FoldName
from mambamed.errors import RecipeError
from mambamed.io.write_errors import check_space
from mambamed.memory import free_memory_bytes
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.training.dry_run import step_gib, without_numbers

_FLOAT32 = 4  # bytes
_MOMENTS = {"sgd": 1}  # tensors per weight that an optimizer keeps; of the others, 2


def check_needs(run: Run, folds: Collection[FoldName], place: Workplace) -> None:
    """Reject a training that the free memory of a CPU, or the disk of the run folder, does not hold.

    A GPU reports exhausted memory itself; the system would kill a process on a CPU.

    Args:
        folds: that are trained from the start.

    Raises:
        RecipeError: memory.
        RunError: disk.
    """
    free = free_memory_bytes()
    if place.device.type == "cpu" and free is not None and (needed := step_gib(run)) * 2**30 > free:
        raise RecipeError(
            f"recipe {run.recipe.name}: a training step needs about {needed:.1f} GiB, {free / 2**30:.1f} are "
            "free. Use --fit auto, a smaller training.batch_size or training.patch_size, or "
            "network.gradient_checkpointing=true."
        )
    check_space(run.root, len(folds) * checkpoint_bytes(run), "the checkpoints")


def checkpoint_bytes(run: Run) -> int:
    """Bytes of the checkpoints of a fold: `best`, `last`, and the next `last` that replaces it."""
    weights = sum(weight.numel() for weight in without_numbers(run).parameters()) * _FLOAT32
    training = run.recipe.training
    kept = 1 + bool(training.ema) + _MOMENTS.get(training.optimizer.name, 2)
    return weights * (1 + 2 * kept)
