"""Values as other programs write them: labels by name or by number, numbers as text, paths in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from mambamed.cases import BACKGROUND, IGNORE
from mambamed.documents.agreement import special
from mambamed.numerals import is_whole
from mambamed.schema_errors import repeated, shortened

_LARGEST = 2**31 - 1  # of a label map's integers


def _text(value: Any) -> Any:
    """A number as text; None as empty text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_number else "" if value is None else value


def _whole(value: Any) -> int:
    """A whole number, which some datasets write as text or as 1.0."""
    if isinstance(value, str) and is_whole(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(f"expected a whole number from 0 to {_LARGEST}, got {shortened(value)}")
    return value


def _label(value: Any) -> int | tuple[int, ...]:
    """The value of a label, or those that a region unites."""
    if not isinstance(value, list):
        return _whole(value)
    if not value:
        raise ValueError("expected at least one label value, got []")
    return tuple(_whole(member) for member in value)


def _by_name(section: Any) -> Any:
    """Labels by name, also where they are given as `{"0": "background", "1": "liver"}`."""
    if not isinstance(section, dict) or not all(map(is_whole, section)):
        return section
    names = [_text(name) for name in section.values()]
    if wrong := [name for name in names if not isinstance(name, str) or not name]:
        raise ValueError(f"expected names of labels, got {shortened(wrong[0])}")
    if twice := repeated(names):
        raise ValueError(f"expected each name once, got {shortened(twice)} {names.count(twice)} times")
    ordered = sorted(zip(map(int, section), names, strict=True))
    return {name: number for number, name in ordered}


def _special_names(labels: dict[str, int | tuple[int, ...]]) -> dict[str, int | tuple[int, ...]]:
    """Labels with "background" and "ignore" in this spelling; each of them has one value."""
    found: dict[str, int | tuple[int, ...]] = {}
    for name, value in labels.items():
        own = special(name)
        if own in found:
            raise ValueError(f"expected one label {own!r}, got several spellings of it")
        if own in {BACKGROUND, IGNORE} and isinstance(value, tuple):
            if len(set(value)) > 1:
                values = ", ".join(map(str, value))
                raise ValueError(f"{name}: expected one value, got {values}. Give these voxels one value")
            value = value[0]
        found[own] = value
    return found


def _in_order(named: dict[str, str]) -> dict[str, str]:
    """Channels in the order of their numbers."""
    if wrong := [key for key in named if not is_whole(key)]:
        raise ValueError(f"expected the numbers of channels as keys, got {shortened(wrong[0])}")
    if twice := repeated(named.values()):
        raise ValueError(f"expected a different name for each channel, got {shortened(twice)} twice")
    return {key: named[key] for key in sorted(named, key=int)}


def _inside(name: str) -> str:
    """A path that stays in the folder of the dataset: a list from elsewhere may not point out of it."""
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"expected a path inside the folder of the dataset, got {shortened(name)}")
    return name


Text = Annotated[str, BeforeValidator(_text)]
Whole = Annotated[int, PlainValidator(_whole)]
InnerPath = Annotated[str, AfterValidator(_inside)]
Channels = Annotated[dict[str, Text], Field(min_length=1), AfterValidator(_in_order)]
Label = Annotated[int | tuple[int, ...], PlainValidator(_label)]
Labels = Annotated[
    dict[str, Label], BeforeValidator(_by_name), Field(min_length=1), AfterValidator(_special_names)
]


def labels_and_regions(
    section: Mapping[str, int | tuple[int, ...]],
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels and regions of nnU-Net's `labels`: values, or lists of values if regions overlap.

    The regions keep their order, which is that of nnU-Net's outputs. If no list has several values, all are
    labels.

    >>> labels_and_regions({"background": 0, "whole": (1, 2), "core": 2})
    ({'background': 0, 'label_1': 1, 'core': 2}, {'whole': (1, 2), 'core': (2,)})
    """
    several = {name: value if isinstance(value, tuple) else (value,) for name, value in section.items()}
    if all(len(values) == 1 for values in several.values()):
        return {name: values[0] for name, values in several.items()}, {}
    numbers = {name: value for name, value in section.items() if isinstance(value, int)}
    regions = {name: values for name, values in several.items() if set(values) != {0} and name != IGNORE}
    ignored = {numbers[IGNORE]} if IGNORE in numbers else set()
    values = sorted({value for members in regions.values() for value in members} | ignored)
    named = {value: name for name, value in numbers.items()}
    return {BACKGROUND: 0} | {named.get(v, f"label_{v}"): v for v in values}, regions
