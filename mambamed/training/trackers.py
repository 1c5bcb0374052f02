"""`--log tensorboard` and `--log wandb`: send the rows of log.csv to these services.

Both packages are optional, and neither may stop a training: after an error tracking ends with a message.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import netrc
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mambamed.documents.splits import FoldName
from mambamed.errors import RecipeError, RunError
from mambamed.io.atomic import write_text
from mambamed.io.ledger import refuse_links
from mambamed.io.text_files import read_text
from mambamed.recipe import dump_recipe
from mambamed.run.folder import Run
from mambamed.schema_errors import shortened

_WANDB_SECONDS = 30.0  # timeout of the connection, after which the run is logged offline


class Tracker(Protocol):
    """Shows the curves of a training elsewhere."""

    def row(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Log the finite numbers of an epoch, by names such as `loss/training`."""

    def close(self) -> None:
        """End tracking."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that is unknown or not installed, before anything is computed."""
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"--log {name}: choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"--log {name}: the package {name} is not installed; pip install 'mambamed[{name}]'"
            )


def open_trackers(
    names: Sequence[str], run: Run, fold: FoldName, epochs_done: int, say: Callable[[str], None]
) -> list[Tracker]:
    """The requested trackers, each protected against errors; they write into the fold's folder.

    `epochs_done` is where a resumed training continues. `say` receives where the curves are, and errors.
    """
    return [_Guarded(name, run, fold, epochs_done, say) for name in names]


def scalars(row: Mapping[str, Any], score_name: str) -> dict[str, float]:
    """The finite numbers of a row of log.csv, by the names under which trackers show them.

    >>> scalars({"epoch": 2, "step": 8, "loss": 0.5, "dice": 0.8, "dice_liver": 0.9}, "dice")
    {'step': 8.0, 'loss/training': 0.5, 'dice/mean': 0.8, 'dice/liver': 0.9}
    """
    words = {"loss": "loss/training", "validation_loss": "loss/validation", score_name: f"{score_name}/mean"}
    numbers = {}
    for key, value in row.items():
        own = key.removeprefix(f"{score_name}_")
        name = words.get(key, key if own == key else f"{score_name}/{own}")
        if key != "epoch" and math.isfinite(value):
            numbers[name] = float(value)
    return numbers


class _Guarded:
    """A tracker whose errors end the tracking, not the training: networks and servers fail at times."""

    def __init__(
        self, name: str, run: Run, fold: FoldName, epochs_done: int, say: Callable[[str], None]
    ) -> None:
        self._name, self._say = name, say
        self._tracker: Tracker | None = None
        self._attempt(lambda: self._open(run, fold, epochs_done))

    def _open(self, run: Run, fold: FoldName, epochs_done: int) -> None:
        self._tracker = TRACKERS[self._name](run, fold, epochs_done)
        self._say(f"log {self._name}: {self._tracker}")

    def row(self, epoch: int, numbers: Mapping[str, float]) -> None:
        self._attempt(lambda: self._tracker and self._tracker.row(epoch, numbers))

    def close(self) -> None:
        self._attempt(lambda: self._tracker and self._tracker.close())

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # whatever a foreign package raises
            self._tracker = None
            self._say(f"log {self._name}: failed ({type(error).__name__}: {error}); the training goes on")


class _TensorBoard:
    """Event files in `fold_K/tensorboard`."""

    def __init__(self, run: Run, fold: FoldName, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.fold_folder(fold) / "tensorboard"
        refuse_links(self._folder)
        # Purges what a killed session wrote after its last checkpoint.
        self._writer = SummaryWriter(str(self._folder), purge_step=epochs_done + 1 if epochs_done else None)
        if not epochs_done:
            self._writer.add_text("recipe", f"```\n{dump_recipe(run.recipe)}```")

    def __str__(self) -> str:
        return f"tensorboard --logdir {self._folder}"

    def row(self, epoch: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project `mambamed` (or WANDB_PROJECT); offline without a key or a connection."""

    def __init__(self, run: Run, fold: FoldName, epochs_done: int) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        folder = run.fold_folder(fold)
        known = folder / "wandb_id.txt"
        refuse_links(folder / "wandb")
        if not known.is_file():
            write_text(known, uuid.uuid4().hex[:12] + "\n")
        wishes = {
            "project": os.environ.get("WANDB_PROJECT", "mambamed"),
            "name": f"{run.root.name} fold {fold}",
            "id": _known_id(known),
            "resume": "allow",
            "dir": str(folder),
            "config": {**run.recipe.model_dump(mode="json"), "fold": fold},
        }
        mode = os.environ.get("WANDB_MODE") or ("online" if _wandb_key_is_known() else "offline")
        try:
            self._start(mode, wishes)
        except Exception:
            if mode == "offline":
                raise
            self._start("offline", wishes)

    def _start(self, mode: str, wishes: Mapping[str, Any]) -> None:
        settings = self._wandb.Settings(init_timeout=_WANDB_SECONDS, silent=True)
        self._run = self._wandb.init(mode=mode, settings=settings, **wishes)
        self._words = mode if mode != "offline" else f"offline; 'wandb sync {Path(self._run.dir).parent}'"

    def __str__(self) -> str:
        return self._words

    def row(self, epoch: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=epoch)

    def close(self) -> None:
        self._run.finish()


def _known_id(path: Path) -> str:
    """The id in a file of a run, which may come from a stranger."""
    found = read_text(path).strip()
    if not re.fullmatch(r"[\w-]{1,64}", found, re.ASCII):
        raise RunError(f"{path}: expected the id of a run of W&B, got {shortened(found)}. Delete the file.")
    return found


def _wandb_key_is_known() -> bool:
    """Whether W&B can log in without a prompt, at which it would wait forever."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


TRACKERS: dict[str, Callable[[Run, FoldName, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}
