"""A recipe as text with comments: only the chosen keys, each with the reason for its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mambamed.recipe.document import value_text


@dataclass(frozen=True)
class Choice:
    """A key of a recipe, e.g. "training.batch_size", its value, and why it has this value (may be empty)."""

    key: str
    value: Any
    why: str = ""

    def line(self) -> str:
        """One line for the log.

        >>> Choice("training.batch_size", 2, "small batches allow more steps").line()
        'training.batch_size 2: small batches allow more steps'
        """
        return f"{self.key} {value_text(self.value)}{f': {self.why}' if self.why else ''}"


def commented_recipe(header: Sequence[str], choices: Sequence[Choice]) -> str:
    """The YAML of a recipe: header comment, then each key below the comment with its reason.

    Keys of one section must follow each other.

    >>> commented_recipe(["Mine."], [Choice("network.name", "nnunet", "fast")]).splitlines()
    ['# Mine.', 'network:', '  # fast', '  name: nnunet']
    """
    lines = [f"# {line}".rstrip() for line in header]
    above: list[str] = []
    for choice in choices:
        *sections, name = choice.key.split(".")
        for depth, section in enumerate(sections):
            if above[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
                above = sections[: depth + 1]
        above, indent = sections, "  " * len(sections)
        lines += [f"{indent}# {choice.why}"] if choice.why else []
        lines.append(f"{indent}{name}: {value_text(choice.value)}")
    return "\n".join(lines) + "\n"
