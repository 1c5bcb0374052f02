"""Files of nnLandmark: the order of the landmarks, and their positions in voxels.

Source: nnLandmark's readme, "Data Format" (Ertl et al. 2026, arXiv:2504.06742).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import RootModel

from mambamed.documents.base import ForeignDocument
from mambamed.documents.foreign.values import Text, Whole


class NnlandmarkDataset(ForeignDocument):
    """`dataset.json`: channel number -> name."""

    channel_names: dict[str, Text] | None = None


class NameToLabel(RootModel[dict[str, Whole]]):
    """`name_to_label.json`: landmark -> its number."""


class VoxelsOfCases(RootModel[dict[str, dict[str, Any]]]):
    """`all_landmarks_voxel.json`: case -> landmark -> position."""


class VoxelsOfCase(RootModel[dict[str, Any]]):
    """A file of one case: landmark -> position."""


def places(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Landmarks with a position: `[i, j, k]` or `{"coordinates": [i, j, k]}`; None if it is absent.

    A position is absent if it is null or "absent"; a landmark whose position is "ignore" is left out.
    """
    for name, entry in entries.items():
        place = entry.get("coordinates") if isinstance(entry, dict) else entry
        if (isinstance(place, list) and set(map(str, place)) == {"None"}) or place == "absent":
            place = None
        if place != "ignore":
            yield name, place
