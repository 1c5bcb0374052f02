"""Point files of every kind: 3D Slicer's Markups and `.fcsv`, tables, JSON of mambamed and nnLandmark.

A `.json` file with `coordinate_system` has world positions. Others have voxels `(i, j, k)` as in nibabel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from mambamed.documents.base import ForeignDocument, validated
from mambamed.documents.foreign.nnlandmark import VoxelsOfCase, VoxelsOfCases, places
from mambamed.documents.foreign.slicer import Markups
from mambamed.documents.foreign.values import Text
from mambamed.errors import DatasetError
from mambamed.geometry import Affine
from mambamed.io.json_files import read_json
from mambamed.io.points import (
    SUFFIXES,
    SYSTEMS,
    Points,
    collected,
    point_suffix,
    read_fcsv,
    read_points_of_table,
    to_world,
)
from mambamed.schema_errors import named


def _system(name: str) -> str:
    if name not in SYSTEMS:
        raise ValueError(f"expected one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]


class WorldPoints(ForeignDocument):
    """The points of a case, with the system of their coordinates."""

    REMEDY: ClassVar[str] = "Correct the file; see docs/datasets.md."

    coordinate_system: Annotated[Text, AfterValidator(_system)]
    points: dict[str, Any]


def read_points(path: Path, affine: Affine | None = None) -> Points:
    """The landmarks of one case, in the file's order: name -> position in world mm, RAS+, None if absent.

    Args:
        path: `.mrk.json`, `.fcsv`, `.csv`, `.tsv` or `.json`.
        affine: `(4, 4)` voxel -> world of the case's image, for files in voxels.

    Raises:
        CaseError: a coordinate is not finite, or the file has voxels and there is no affine.
        DatasetError: not such a file, a duplicate landmark, or a table of several cases.
    """
    suffix = point_suffix(path)
    if suffix == ".mrk.json":
        system, found = _of_markups(read_json(path), path)
    elif suffix == ".fcsv":
        system, found = read_fcsv(path)
    elif suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict) and "markups" in content:
            system, found = _of_markups(content, path)
        elif isinstance(content, dict) and "coordinate_system" in content:
            document = WorldPoints.checked(content, path)
            system, found = document.coordinate_system, collected(places(document.points), path)
        else:
            voxels = validated(VoxelsOfCase, content, path, remedy="See docs/datasets.md.")
            system, found = "voxel", collected(places(voxels.root), path)
    elif suffix in {".csv", ".tsv"}:
        system, cases = read_points_of_table(path)
        if len(cases) > 1:
            raise DatasetError(
                f"{path}: expected the points of one case, got {len(cases)} cases. "
                "Use one file per case, or a list of cases."
            )
        found = next(iter(cases.values()), {})
    else:
        raise DatasetError(f"{path}: is not a point file. Use {', '.join(SUFFIXES)}.")
    return to_world(found, system, path, affine)


def read_point_table(path: Path) -> tuple[str, dict[str, Points]]:
    """The landmarks of many cases: a table with a column `case`, or nnLandmark's `{case: {name: [i, j, k]}}`.

    Returns:
        The coordinate system, "RAS", "LPS" or "voxel", and case id -> landmark -> position in it, which may
        be NaN; None if the landmark is absent. `to_world` converts the positions.

    Raises:
        DatasetError: not such a file, a duplicate landmark, or a coordinate that is not a number.
    """
    if point_suffix(path) != ".json":
        return read_points_of_table(path)
    voxels = validated(VoxelsOfCases, read_json(path), path, remedy="See docs/datasets.md.")
    return "voxel", {
        case: collected(places(entries), f"{path}: {named(case)}") for case, entries in voxels.root.items()
    }


def _of_markups(content: Any, path: Path) -> tuple[str, Points]:
    markups = Markups.checked(content, path)
    return markups.markups[0].coordinate_system, collected(markups.places(), path)
