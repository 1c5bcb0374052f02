"""The options of a preparation, from the recipe and the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mambamed.errors import RecipeError
from mambamed.geometry import SPACINGS_MM
from mambamed.io.text_files import read_text
from mambamed.recipe import Preprocess, Recipe, Split


def preprocess_settings(recipe: Recipe | None, spacing: str | None) -> Preprocess:
    """The recipe's preprocess section, overridden by `--spacing`.

    Raises RecipeError: an invalid spacing.

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
        if not (SPACINGS_MM[0] <= min(x, y, z) and max(x, y, z) <= SPACINGS_MM[1]):
            raise ValueError
    except ValueError as error:
        raise RecipeError(
            f"--spacing {spacing}: expected median, keep, or three numbers in mm. Write e.g. 1,1,1."
        ) from error
    return settings.model_copy(update={"spacing": (x, y, z)})


def parse_bytes(text: str, option: str = "--max-ram") -> int:
    """Bytes of a size such as 8G, 24GB or 500 MiB; all units are powers of 1024.

    Raises RecipeError: not a size; `option` is named in the message.

    >>> parse_bytes("8G"), parse_bytes("500 MB"), parse_bytes("1GiB")
    (8589934592, 524288000, 1073741824)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(?:([KMGT])(?:i?B)?|B)?\s*", text, re.IGNORECASE)
    if not match:
        raise RecipeError(f"{option} {text}: not a size. Write e.g. 8G.")
    return int(float(match[1]) * 1024 ** (" KMGT".index((match[2] or " ").upper())))


def with_options(
    split: Split,
    *,
    folds: int | None = None,
    fractions: str | None = None,
    group_by: str | None = None,
    stratify: str | None = None,
    test_cases: str | None = None,
    seed: int | None = None,
) -> Split:
    """The recipe's split, overridden by the command line.

    Args:
        fractions: e.g. "7:1:2" (train, validation, test) or "8:2".
        test_cases: ids separated by commas, or a text file with one id per line.

    Raises RecipeError: an invalid option, or two that exclude each other.
    """
    if folds is not None and fractions is not None:
        raise RecipeError("--folds and --split exclude each other. Give one of them.")
    changes: dict[str, Any] = {}
    if folds is not None:
        changes |= {"folds": folds, "train": None, "val": None, "test": None}
    if fractions is not None:
        changes |= _fractions(fractions)
    if test_cases is not None:
        # Path.is_file raises an error for a list that is longer than a file name can be.
        is_file = os.path.isfile(test_cases)  # noqa: PTH113
        text = read_text(Path(test_cases)) if is_file else test_cases.replace(",", "\n")
        changes["test_cases"] = tuple(line.strip() for line in text.splitlines() if line.strip())
    named = {"group_by": group_by, "stratify": stratify, "seed": seed}
    changes |= {key: value for key, value in named.items() if value is not None}
    try:
        return Split.model_validate({**split.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][0]}" if first["loc"] else "--folds, --split or --test-cases"
        fact = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{option.replace('_', '-')}: {fact}") from error


def _fractions(text: str) -> dict[str, float | None]:
    try:
        numbers = [float(part) for part in text.split(":")]
        if len(numbers) not in {2, 3} or min(numbers) <= 0:
            raise ValueError
    except ValueError as error:
        raise RecipeError(
            f"--split {text}: expected train:val:test or train:val. Write e.g. 7:1:2 or 8:2."
        ) from error
    train, val, *rest = (number / sum(numbers) for number in numbers)
    return {"train": train, "val": val, "test": rest[0] if rest else None}
