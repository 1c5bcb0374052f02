"""What a recipe and the command line ask of a preparation, checked against the dataset."""

from __future__ import annotations

import re

from mambamed.errors import RecipeError
from mambamed.recipe import Preprocess, Recipe


def preprocess_settings(recipe: Recipe | None, spacing: str | None) -> Preprocess:
    """The recipe's preprocess section with `--spacing` in it.

    Raises:
        RecipeError: a spacing that cannot be read.

    >>> preprocess_settings(None, "1,1,2.5").spacing
    (1.0, 1.0, 2.5)
    """
    settings = recipe.preprocess if recipe else Preprocess()
    if spacing is None:
        return settings
    if spacing in {"median", "keep"}:
        return settings.model_copy(update={"spacing": spacing})
    try:
        x, y, z = (float(part) for part in spacing.split(","))
        if min(x, y, z) <= 0:
            raise ValueError
    except ValueError as error:
        raise RecipeError(
            f"--spacing {spacing}: expected median, keep, or three numbers in mm. Write e.g. 1,1,1."
        ) from error
    return settings.model_copy(update={"spacing": (x, y, z)})


def parse_bytes(text: str, option: str = "--max-ram") -> int:
    """Bytes of a size as people write it; units are powers of 1024, however they are written.

    Args:
        text: e.g. 8G, 24GB or 500 MiB.
        option: that it was given to, for the fault.

    Raises:
        RecipeError: it is none.

    >>> parse_bytes("8G"), parse_bytes("500 MB"), parse_bytes("1GiB")
    (8589934592, 524288000, 1073741824)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(?:([KMGT])(?:i?B)?|B)?\s*", text, re.IGNORECASE)
    if not match:
        raise RecipeError(f"{option} {text}: not a size. Write e.g. 8G.")
    return int(float(match[1]) * 1024 ** (" KMGT".index((match[2] or " ").upper())))
