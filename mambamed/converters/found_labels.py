"""Find the labels of a dataset without label names in its label maps."""

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
_MOST_LABELS = 512  # a file with more values is an image


def labels_in(paths: Iterable[Path | None], progress: Progress | None = None) -> dict[str, int]:
    """Labels for the values in the label maps, named `label_1`, ...; other files are ignored."""
    given, values, progress = [path for path in paths if path is not None], {0}, progress or Silence()
    progress.start("finding labels", len(given), "label maps")
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        for found in pool.map(_values_in, given):
            values |= found
            progress.advance()
    return {f"label_{value}" if value else BACKGROUND: value for value in sorted(values)}


def _values_in(path: Path) -> set[int]:
    """The values in a label map; empty if it is not a label map."""
    try:
        found = np.unique(read_image(path).array)
    except CaseError:
        return set()
    rounded = np.rint(found)
    right = len(found) <= _MOST_LABELS and (np.abs(found - rounded) <= _ROUNDING).all() and found[0] >= 0
    return {int(value) for value in rounded} if right else set()
