"""Left and right in the names of structures, classes and landmarks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_SIDES = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+|\d+")  # camelCase is two words


def side_of(name: str) -> str | None:
    """ "left" or "right" if a word of the name says so (left, l, lh, right, r, rh), else None.

    >>> side_of("kidney_l"), side_of("RightLung"), side_of("lh-V1"), side_of("liver"), side_of("left/right")
    ('left', 'right', 'left', None, None)
    """
    found = {_SIDES[word] for word in _words(name) if word in _SIDES}
    return found.pop() if len(found) == 1 else None


def pairs_by_name(names: Iterable[str]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Pairs (left, right) of names that differ only in their side, and the sided names without a partner.

    >>> pairs_by_name(["eye_left", "nose", "eye_right", "ear_left"])
    ((('eye_left', 'eye_right'),), ('ear_left',))
    """
    members: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        if side_of(name):
            members[tuple("" if word in _SIDES else word for word in _words(name))].append(name)
    pairs, alone = [], []
    for group in members.values():
        group.sort(key=lambda name: side_of(name) or "")
        if [side_of(name) for name in group] == ["left", "right"]:
            pairs.append((group[0], group[1]))
        else:
            alone += group
    return tuple(pairs), tuple(alone)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
