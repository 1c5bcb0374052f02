"""The labels of a dataset that nothing names: those that its label maps hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mambamed.cases import BACKGROUND
from mambamed.errors import CaseError
from mambamed.io.images import read_image
from mambamed.progress import Progress, Silence

_ROUNDING = 1e-3
_READERS = 4  # label maps read at once
_MOST_LABELS = 512  # a map with more values is an image


def labels_in(paths: Iterable[Path | None], progress: Progress | None = None) -> dict[str, int]:
    """Labels by the values that the label maps hold, named `label_1`, ...; other files are ignored.

    Reading them is left to verification to judge; here only what they hold counts.
    """
    given, values, progress = [path for path in paths if path is not None], {0}, progress or Silence()
    progress.start("finding labels", len(given), "label maps")
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        for found in pool.map(_values_in, given):
            values |= found
            progress.advance()
    return {f"label_{value}" if value else BACKGROUND: value for value in sorted(values)}


def _values_in(path: Path) -> set[int]:
    """What a label map holds; nothing where it is none."""
    try:
        found = np.unique(read_image(path).array)
    except CaseError:
        return set()
    rounded = np.rint(found)
    right = len(found) <= _MOST_LABELS and (np.abs(found - rounded) <= _ROUNDING).all() and found[0] >= 0
    return {int(value) for value in rounded} if right else set()
