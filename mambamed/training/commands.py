"""The commands that `train` proposes as the next step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.documents.splits import FoldName
from mambamed.tasks.base import task_class
from mambamed.terminal import command_line


def predict_command(task: str, models: Sequence[Path], name: str) -> str:
    """The command that applies the models of a task to images; several run folders are averaged.
    >>> predict_command("landmarks", [Path("runs/heads")], "heads")
    'mambamed landmarks runs/heads IMAGES -o landmarks/heads'
    """
    made = task_class(task)
    return command_line(made.verb, *models, "IMAGES", "-o", made.output.format(name=name))


def resume_command(run: Path, prepared: Path, fold: FoldName, seeds: str | None = None) -> str:
    """The command that resumes a stopped training.

    `fold` may be "all". With `seeds`, the value of `--seeds`, the run is in the folder of the runs.
    >>> resume_command(Path("a"), Path("data"), 0)
    'mambamed train a/recipe.yaml -d data -o a -f 0 --resume'
    """
    output = ("-o", run) if seeds is None else ("--seeds", seeds, "-o", run.parent)
    return command_line("train", run / "recipe.yaml", "-d", prepared, *output, "-f", fold, "--resume")
