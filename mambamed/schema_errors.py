"""Faults that pydantic finds, as text: what was expected, what was found, which key was probably meant."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def fact_of(fault: Any, known: Sequence[str] = ()) -> str:
    """What is wrong, from one fault of pydantic.

    Args:
        fault: of `ValidationError.errors()`.
        known: keys that the model has at this place, for a suggestion.
    """
    if fault["type"] == "extra_forbidden":
        return f"unknown key{did_you_mean(str(fault['loc'][-1]), known)}"
    if fault["type"] in {"missing", "union_tag_not_found"}:
        return "missing"
    if fault["type"] == "union_tag_invalid":
        return f"expected one of {fault['ctx']['expected_tags']}, got {shortened(fault['ctx']['tag'])}"
    if fault["type"] == "too_short":
        least, count = fault["ctx"]["min_length"], fault["ctx"]["actual_length"]
        return f"expected at least {least} {'entry' if least == 1 else 'entries'}, got {count}"
    message = " ".join(fault["msg"].removeprefix("Value error, ").splitlines())
    if not message.startswith("Input should be"):
        return message
    return f"expected {message.removeprefix('Input should be ')}, got {shortened(fault['input'])}"


def shortened(value: Any, most: int = 60) -> str:
    """A value as text for a message.

    >>> shortened("a" * 100, 10), shortened({"a": 1})
    ("'aaaaaa...", "{'a': 1}")
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def named(name: object) -> str:
    """A name as a part of a message: as it is, or quoted if it would end the line or is empty.

    >>> named("liver"), named("a\\nb")
    ('liver', "'a\\\\nb'")
    """
    text = str(name)
    return text if text and text.isprintable() else repr(text)


def some_of(names: Iterable[str], where: str = "", most: int = 5) -> str:
    """The first names of a list, and how many follow; `where` says where the rest stands.

    >>> some_of("abc"), some_of("abcdefg"), some_of("abcdefg", "cases.csv")
    ('a, b, c', 'a, b, c, d, e and 2 more', 'a, b, c, d, e and 2 more (see cases.csv)')
    """
    known = list(names)
    left = len(known) - most
    more = f" and {left} more" + (f" (see {where})" if where else "") if left > 0 else ""
    return f"{', '.join(known[:most])}{more}"


def repeated(names: Iterable[str]) -> str | None:
    """The most frequent of names that occur more than once.

    >>> repeated("abcb"), repeated("abc")
    ('b', None)
    """
    most = Counter(names).most_common(1)
    return most[0][0] if most and most[0][1] > 1 else None


def did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A suggestion for a misspelled word, or nothing.

    >>> did_you_mean("patchsize", ["patch_size", "batch_size"])
    " - did you mean 'patch_size'?"
    """
    squeezed = {name.replace("_", ""): name for name in known}
    close = difflib.get_close_matches(
        word.replace("_", "").replace("-", "").lower(), list(squeezed), n=1, cutoff=0.6
    )
    return f" - did you mean '{squeezed[close[0]]}'?" if close else ""


def keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that a model knows at a key path; none if there is no model."""
    models = [model]
    for part in location:
        fields = [each.model_fields[str(part)] for each in models if str(part) in each.model_fields]
        if fields:  # else an index, a name in a mapping, or the tag of a union
            models = [inner for field in fields for inner in _models_in(field.annotation)]
    return [name for each in models for name in each.model_fields]


def key_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys of a model and of the models within it, e.g. `training.optimizer.lr`."""
    paths = []
    for name, field in model.model_fields.items():
        paths.append(f"{prefix}{name}")
        for inner in _models_in(field.annotation):
            paths += key_paths(inner, f"{prefix}{name}.")
    return paths


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is None and isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
