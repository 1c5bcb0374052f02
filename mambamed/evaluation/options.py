"""Options of `evaluate` that cannot be, or do not speak of what is evaluated: refused, never passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mambamed.errors import RecipeError

_TABLE_OF = {"masks": "brats", "landmarks": "landmarks", "classes": "classification"}


def check_level(level: float) -> None:
    """Refuse what is no confidence level.

    Raises:
        RecipeError: it does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise RecipeError(f"--ci {level:g}: give a level between 0 and 1, as in 0.95")


def check_options(
    kind: Literal["masks", "landmarks", "classes"], table: str | None, of_masks: Mapping[str, object]
) -> None:
    """Refuse what does not fit.

    Args:
        kind: of what is evaluated.
        table: of the papers, as asked for.
        of_masks: options that speak of masks -> what was given; None or False: not given.

    Raises:
        RecipeError: an option for another kind, or one that a protocol decides.
    """
    given = [option for option, value in of_masks.items() if value is not None and value is not False]
    if kind != "masks" and given:
        raise RecipeError(f"{', '.join(given)}: about masks, and these are {kind}; leave it out")
    if table is not None and table != _TABLE_OF[kind]:
        raise RecipeError(f"--table {table}: these are {kind}; take --table {_TABLE_OF[kind]}")
    decided = [option for option in ("--hd95", "--empty") if option in given]
    if "--protocol" in given and decided:
        raise RecipeError(
            f"--protocol {of_masks['--protocol']} decides {' and '.join(decided)}; leave one of them out"
        )
