"""Options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.errors import RecipeError
from mambamed.preparation.pool import Workers
from mambamed.progress import Progress
from mambamed.recipe import Evaluation as EvaluationSection
from mambamed.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of the command `evaluate`; None or False: not given.

    Attributes:
        recipe: its labels, regions, landmarks, `evaluation` and `paper` sections are used.
        level: confidence level of the intervals.
        part: of a prepared dataset, whose cases alone are scored.
        cases: ids of these, or of others that alone are scored.
        table: name of a table like those of papers.
        on: where cases are scored, if not in threads of this process.
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
    part: str | None = None
    cases: tuple[str, ...] | None = None
    output: Path | None = None
    report: bool = True
    worst: int = 10
    table: str | None = None
    workers: int = 0
    on: Workers | None = None
    progress: Progress | None = None

    def chosen(self, *names: str) -> dict[str, Any]:
        """Some of the options, by name."""
        return {name: getattr(self, name) for name in names}

    @property
    def section(self) -> EvaluationSection:
        """The recipe's `evaluation` section, or its defaults."""
        return self.recipe.evaluation if self.recipe else EvaluationSection()

    @property
    def paper(self) -> dict[str, Any] | None:
        """The recipe's `paper` section."""
        return self.recipe.paper if self.recipe else None


def check_level(level: float) -> None:
    """Raise `RecipeError` if a confidence level is not between 0 and 1."""
    if not 0 < level < 1:
        raise RecipeError(f"--ci {level:g}: expected a level between 0 and 1, e.g. 0.95.")
