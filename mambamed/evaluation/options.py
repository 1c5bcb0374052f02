"""Options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.errors import RecipeError
from mambamed.progress import Progress
from mambamed.recipe import Evaluation as EvaluationSection
from mambamed.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What a user may choose; each field is an option of the command, None or False: not given.

    Attributes:
        recipe: whose labels, regions, landmarks, `evaluation` and `paper` sections count.
        regions: as on the command line, e.g. liver=1,tumor=2+3.
        metrics: as on the command line, e.g. dice,hd95.
        hd95, empty, protocol, penalty, resample, images: see `masks.evaluate`.
        level: of the confidence intervals.
        only_predicted: leave out references without a prediction.
        output, report, worst: folder of the tables, whether it gets `report.html`, and how many cases that
            lists as the worst.
        table: name of the table as papers print it.
        workers: threads.
        progress: optional callback that receives progress updates.
    """

    recipe: Recipe | None = None
    regions: str | None = None
    metrics: str | None = None
    hd95: str | None = None
    empty: str | None = None
    protocol: str | None = None
    penalty: float | None = None
    resample: bool = False
    images: Path | None = None
    level: float = 0.95
    only_predicted: bool = False
    output: Path | None = None
    report: bool = True
    worst: int = 10
    table: str | None = None
    workers: int = 0
    progress: Progress | None = None

    @property
    def section(self) -> EvaluationSection:
        """The recipe's `evaluation` section, or its defaults."""
        return self.recipe.evaluation if self.recipe else EvaluationSection()

    @property
    def paper(self) -> dict[str, Any] | None:
        """The recipe's `paper` section."""
        return self.recipe.paper if self.recipe else None


def check_level(level: float) -> None:
    """Reject a confidence level that is not between 0 and 1.

    Raises:
        RecipeError: it is not.
    """
    if not 0 < level < 1:
        raise RecipeError(f"--ci {level:g}: expected a level between 0 and 1, e.g. 0.95.")
