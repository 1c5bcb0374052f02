"""Whether two sources that name the same things agree: by value and by name.

Names may differ in spelling, i.e. in capitals, spaces, "_" and "-", and a name that only repeats its number
("label_1", "1") says nothing. Every place where two sources name labels, regions, channels, landmarks or
classes uses these functions.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mambamed.cases import BACKGROUND, IGNORE
from mambamed.schema_errors import named, some_of

Values = frozenset[int]
_SPECIAL = {"background": BACKGROUND, "ignore": IGNORE, "ignorelabel": IGNORE, "ignored": IGNORE}
_MADE_UP = re.compile(r"(label|class|channel|value|region|segment)?0*([0-9]{1,15})")
_ONLY_A_KIND = {
    "image", "images", "img", "scan", "volume", "vol", "file", "filename", "path", "channel", "input", "data",
    "dicom", "series", "nifti", "mri", "mr", "ct", "modality",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?")
_SEPARATORS = re.compile(r"[\s_\-]+")


@functools.lru_cache(4096)
def spelling(name: str) -> str:
    """A name without what only its spelling decides; separators stay where they carry meaning.

    >>> spelling("Gall Bladder"), spelling("left-kidney"), spelling("ER+"), spelling("1-10"), spelling("1.0")
    ('gallbladder', 'leftkidney', 'er+', '1_10', '1')
    """
    text = unicodedata.normalize("NFKC", name).strip().casefold()
    if _NUMBER.fullmatch(text):
        return f"{float(text):.15g}"

    def kept(match: re.Match[str]) -> str:
        around = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        if all(each.isdigit() for each in around):
            return "_"
        return "" if all(each.isalnum() for each in around) else match[0]

    return _SEPARATORS.sub(kept, text)


def special(name: str) -> str:
    """The name as it is, but "background" and "ignore" if it is one of these in another spelling.

    >>> special("Ignore Label"), special("BACKGROUND"), special("Liver")
    ('ignore', 'background', 'Liver')
    """
    return _SPECIAL.get(spelling(name), name)


def names_only_a_number(name: str, value: int) -> bool:
    """Whether a name was made from its value.

    >>> names_only_a_number("label_02", 2), names_only_a_number("2", 2), names_only_a_number("label_2", 1)
    (True, True, False)
    """
    match = _MADE_UP.fullmatch(spelling(name))
    return match is not None and int(match[2]) == value


def names_only_a_kind(channel: str) -> bool:
    """Whether the name of a channel says no more than that it is an image, or of which kind.

    >>> names_only_a_kind("MRI"), names_only_a_kind("image_path"), names_only_a_kind("T1_image")
    (True, True, False)
    """
    words = [word for word in re.split(r"[\W_]+", channel.casefold()) if word and not word.isdecimal()]
    return all(word in _ONLY_A_KIND for word in words)


@dataclass(frozen=True)
class Naming:
    """What a source names: name -> the values that it means.

    Attributes:
        source: the file or option, for messages.
    """

    source: str
    names: Mapping[str, Values]

    @classmethod
    def of(
        cls,
        source: str,
        labels: Mapping[str, int] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> Naming:
        """Labels, and regions under other names than a label."""
        united = {name: frozenset(members) for name, members in (regions or {}).items()}
        return cls(source, united | {name: frozenset([value]) for name, value in (labels or {}).items()})

    @classmethod
    def in_order(cls, source: str, names: Iterable[str]) -> Naming:
        """Names by their place, from 0 on."""
        return cls(source, {name: frozenset([place]) for place, name in enumerate(names)})

    def shown(self, names: Iterable[str]) -> str:
        """Some names with their values, and where they stand."""
        listed = (f"{named(name)} {'+'.join(map(str, sorted(self.names[name])))}" for name in names)
        return f"{some_of(listed)} ({self.source})"


def disagreement(first: Naming, second: Naming, *, only_names: bool = False) -> str | None:
    """What two sources say differently, side by side; None if they agree.

    Args:
        only_names: accept two names of one value, but not two values of one name.

    >>> ours = Naming.of("A", {"edema": 1, "core": 2})
    >>> disagreement(ours, Naming.of("B", {"Core": 1, "other": 3}))
    'edema 1, core 2 (A) | Core 1 (B)'
    >>> disagreement(ours, Naming.of("B", {"label_1": 1, "CORE": 2})) is None
    True
    """
    mine, theirs = _Sides.of(first), _Sides.of(second)
    found: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for here, there, conflicting, others in ((mine, theirs, *found), (theirs, mine, *reversed(found))):
        for name, values, spelled in here.entries:
            elsewhere = there.by_name.get(spelled, {})
            alike = {} if only_names or values == frozenset([0]) else there.by_value.get(values, {})
            for others_of, ours in ((elsewhere, here.by_name[spelled]), (alike, here.by_value[values])):
                if others_of and not set(ours.values()) & set(others_of.values()):
                    conflicting[name] = None
                    others.update(dict.fromkeys(others_of))
    if not found[0] and not found[1]:
        return None
    return f"{first.shown(_sorted(found[0], first))} | {second.shown(_sorted(found[1], second))}"


@dataclass(frozen=True)
class _Sides:
    """The names of a source that say something."""

    entries: list[tuple[str, Values, str]]  # name, values, spelling
    by_name: Mapping[str, Mapping[str, Values]]  # spelling -> name -> values
    by_value: Mapping[Values, Mapping[str, str]]  # values -> name -> spelling

    @classmethod
    def of(cls, naming: Naming) -> _Sides:
        entries = [
            (name, values, spelling(name))
            for name, values in naming.names.items()
            if not (len(values) == 1 and names_only_a_number(name, *values))
        ]
        by_name: defaultdict[str, dict[str, Values]] = defaultdict(dict)
        by_value: defaultdict[Values, dict[str, str]] = defaultdict(dict)
        for name, values, spelled in entries:
            by_name[spelled][name] = values
            by_value[values][name] = spelled
        return cls(entries, by_name, by_value)


def _sorted(names: Iterable[str], naming: Naming) -> list[str]:
    return sorted(names, key=lambda name: sorted(naming.names[name]))


def spelled_alike(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Name -> the one of the known names that it is, where their spellings agree.

    A name that is spelled like several known ones is left out; an exact match comes first.

    >>> spelled_alike(["left_eye", "nose"], ["Left Eye", "mouth"])
    {'left_eye': 'Left Eye'}
    """
    exact, candidates = set(), defaultdict(list)
    for each in dict.fromkeys(known):
        exact.add(each)
        candidates[spelling(each)].append(each)
    found = {}
    for name in names:
        alike = [name] if name in exact else candidates.get(spelling(name), [])
        if len(alike) == 1:
            found[name] = alike[0]
    return found


def spelled_apart(sources: Mapping[str, Iterable[str]]) -> str | None:
    """Two names that differ in spelling only, each with a source; None if there are none.

    Names that some source has both, e.g. the landmarks N and n of bone and skin, are two.

    >>> spelled_apart({"p1": ["Nose"], "p2": ["chin", "nose"]})
    'Nose (p1) | nose (p2)'
    >>> spelled_apart({"p1": ["N", "n"], "p2": ["n"]}) is None
    True
    """
    first: dict[str, dict[str, str]] = {}
    both: set[str] = set()
    for source, names in sources.items():
        here: dict[str, str] = {}
        for name in names:
            spelled = spelling(name)
            first.setdefault(spelled, {}).setdefault(name, source)
            if here.setdefault(spelled, name) != name:
                both.add(spelled)
    for spelled, found in first.items():
        if len(found) > 1 and spelled not in both:
            return " | ".join(f"{named(name)} ({source})" for name, source in [*found.items()][:2])
    return None


def one_spelling_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Two different names of one source that differ in spelling only.

    >>> one_spelling_twice(["AD", "NC", "ad"]), one_spelling_twice(["1", "1.0"]), one_spelling_twice("ab")
    (('AD', 'ad'), ('1', '1.0'), None)
    """
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if (other := first.setdefault(spelling(name), name)) != name:
            return other, name
    return None
