"""How the predictions of a task are evaluated and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mambamed.errors import RecipeError
from mambamed.evaluation.options import EvaluateOptions, check_level
from mambamed.evaluation.read_back import Evaluated
from mambamed.evaluation.result import Evaluation

# Fields that apply to every task; a scorer lists the others that apply to it.
_COMMON = frozenset(
    {"recipe", "level", "only_predicted", "part", "cases", "output", "report", "worst", "table", "workers"}
    | {"progress"}
)


@dataclass(frozen=True)
class Scorer:
    """How the predictions of one task are evaluated.

    Attributes:
        contents: name of such predictions in messages, e.g. "segmentation masks".
        recognizes: whether a path has such predictions.
        options: fields of `EvaluateOptions` that apply, in addition to those of every task.
        table: the value of `--table` that applies.
        evaluate: predictions, references, options -> evaluation.
        read_back: folder, name and `summary.json` -> values per case, for `compare`.
    """

    contents: str
    recognizes: Callable[[Path], bool]
    options: frozenset[str]
    table: str
    evaluate: Callable[[Path, Path, EvaluateOptions], Evaluation]
    read_back: Callable[[Path, str, Any], Evaluated]

    def check(self, options: EvaluateOptions, predictions: Path) -> None:
        """Raise `RecipeError` if an option does not apply to the predictions."""
        check_level(options.level)
        given = [field.name for field in fields(options) if getattr(options, field.name) not in (None, False)]
        if strange := [f"--{name}" for name in given if name not in _COMMON | self.options]:
            verb, them = ("apply", "options") if len(strange) > 1 else ("applies", "option")
            raise RecipeError(
                f"{', '.join(strange)} {verb} to predictions of another task, but {predictions} contains "
                f"{self.contents}. Remove the {them}."
            )
        if options.table not in (None, self.table):
            raise RecipeError(
                f"--table {options.table} applies to predictions of another task, but {predictions} contains "
                f"{self.contents}. Use --table {self.table}."
            )
