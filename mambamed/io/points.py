"""Read landmarks from `.fcsv` files of 3D Slicer and tables; write them as these, Markups or JSON.

| file | coordinates | absent landmark |
|---|---|---|
| `.mrk.json` | written as LPS, the default of Slicer | `positionStatus` "undefined" |
| `.fcsv` | by `CoordinateSystem` (0 and RAS, 1 and LPS, 2 and IJK); written as RAS | no line |
| `.csv`, `.tsv` | RAS mm `x,y,z`, `x_ras`...; LPS mm `x_lps`...; voxels `i,j,k`, `x_voxel`... | empty cells |
| `.json` | written as RAS mm, with `coordinate_system` | null |

`mambamed.documents.point_files` reads all of them. In memory positions are world mm, RAS+.

Source: 3D Slicer, Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json and the `.fcsv` files
that it writes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import Affine, voxel_to_world
from mambamed.io.atomic import write_text
from mambamed.io.case_columns import CaseColumns
from mambamed.io.json_files import write_json
from mambamed.io.tables import column_of, read_csv, unescaped, write_csv
from mambamed.io.text_files import read_text
from mambamed.schema_errors import named

Point = tuple[float, float, float]
Points = dict[str, Point]

SUFFIXES = (".mrk.json", ".fcsv", ".csv", ".tsv", ".json")
_NAME_COLUMNS = ("landmark", "name", "label", "point", "afid")
_AXES = {
    "RAS": (("x", "y", "z"), ("x_ras", "y_ras", "z_ras"), ("r", "a", "s"), ("x_mm", "y_mm", "z_mm")),
    "LPS": (("x_lps", "y_lps", "z_lps"), ("l", "p", "s")),
    "voxel": (("x_voxel", "y_voxel", "z_voxel"), ("i", "j", "k")),
}
SYSTEMS = {"0": "RAS", "1": "LPS", "2": "voxel", "RAS": "RAS", "LPS": "LPS", "IJK": "voxel"}
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = [
    "id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID",
]  # fmt: skip


def point_suffix(path: Path) -> str | None:
    """The suffix of a point file, in lower case; None if the name is not that of a point file.

    >>> point_suffix(Path("a.mrk.json")), point_suffix(Path("a.b.FCSV")), point_suffix(Path("a.nii.gz"))
    ('.mrk.json', '.fcsv', None)
    """
    if path.name.startswith("."):
        return None
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def to_world(found: Mapping[str, Point], system: str, path: Path, affine: Affine | None) -> Points:
    """Positions in "RAS", "LPS" or "voxel" -> world mm, RAS+.

    Raises CaseError: a coordinate is NaN or infinite, or voxels without an affine.
    """
    _check_finite(found, path)
    if system == "RAS":
        return dict(found)
    if system == "LPS":
        return {name: (0.0 - x, 0.0 - y, z) for name, (x, y, z) in found.items()}
    if affine is None:
        raise CaseError(f"{path}: coordinates are voxels, but their image is not known. Give that image.")
    with np.errstate(over="ignore", invalid="ignore"):
        world = {name: _triple(voxel_to_world(affine, point)) for name, point in found.items()}
    _check_finite(world, path)
    return world


def _check_finite(points: Mapping[str, Point], path: Path) -> None:
    for name, point in points.items():
        if not all(math.isfinite(value) for value in point):
            raise CaseError(
                f"{path}: landmark {named(name)}: {point} is not a position. "
                "Remove landmarks that are absent."
            )


def write_points(
    path: Path, points: Mapping[str, Sequence[float]], scores: Mapping[str, float] | None = None
) -> None:
    """Write the landmarks of one case atomically; the suffix selects the format.

    Args:
        path: `.mrk.json`, `.fcsv`, `.csv` or `.json`.
        points: landmark name -> world mm, RAS+; NaN if absent.
        scores: landmark name -> score, 0 to 1; a column, a key, or the description in Slicer's files.

    Raises ValueError: another suffix, or a position that is not three numbers; RunError: the file cannot be
    written.
    """
    if wrong := [name for name, point in points.items() if len(point) != 3]:
        raise ValueError(f"landmark {wrong[0]}: expected three numbers, got {points[wrong[0]]}")
    suffix, scores = point_suffix(path), scores or {}
    if suffix == ".mrk.json":
        write_json(path, _as_markups(points, scores))
    elif suffix == ".fcsv":
        write_text(path, _as_fcsv(points, scores))
    elif suffix == ".csv":
        headers = ["landmark", "x", "y", "z", *(["score"] if scores else [])]
        write_csv(path, headers, [_row(name, point, scores) for name, point in points.items()])
    elif suffix == ".json":
        places = {name: _found(point) for name, point in points.items()}
        document: dict[str, Any] = {"coordinate_system": "RAS", "unit": "mm", "points": places}
        if scores:
            document["scores"] = {name: round(float(score), 6) for name, score in scores.items()}
        write_json(path, document)
    else:
        raise ValueError(f"{path}: points are written as .mrk.json, .fcsv, .csv or .json")


def write_point_table(
    path: Path,
    cases: Mapping[str, Mapping[str, Sequence[float]]],
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the landmarks of many cases as a CSV table, `case,landmark,x,y,z` in world mm, RAS+, atomically.

    Positions of absent landmarks are NaN in `cases` and empty cells in the table.
    """
    headers = ["case", "landmark", "x", "y", "z", *(["score"] if scores else [])]
    rows = []
    for case, points in cases.items():
        known = (scores or {}).get(case, {})
        rows += [[case, *_row(name, point, known, bool(scores))] for name, point in points.items()]
    write_csv(path, headers, rows)


def _row(name: str, point: Sequence[float], scores: Mapping[str, float], scored: bool = False) -> list[Any]:
    place = _found(point) or [None, None, None]
    return [name, *place, *([scores.get(name)] if scores or scored else [])]


def _found(point: Sequence[float]) -> list[float] | None:
    """The position as plain numbers; None if the landmark is absent."""
    place = [float(value) for value in point]
    return place if all(math.isfinite(value) for value in place) else None


def _as_markups(points: Mapping[str, Sequence[float]], scores: Mapping[str, float]) -> dict[str, Any]:
    control_points = []
    for number, (name, point) in enumerate(points.items(), start=1):
        place = _found(point)
        x, y, z = place or (0.0, 0.0, 0.0)
        control_points.append({
            "id": str(number), "label": name,
            "description": f"score {scores[name]:.3f}" if name in scores else "", "associatedNodeID": "",
            "position": [0.0 - x, 0.0 - y, z], "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True, "locked": False, "visibility": True,
            "positionStatus": "defined" if place else "undefined",
        })  # fmt: skip
    markup = {
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False,
        "fixedNumberOfControlPoints": False, "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control_points), "controlPoints": control_points,
        "measurements": [],
    }  # fmt: skip
    return {"@schema": _SCHEMA, "markups": [markup]}


def _as_fcsv(points: Mapping[str, Sequence[float]], scores: Mapping[str, float]) -> str:
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n")
    text.write(f"# columns = {','.join(_FCSV_COLUMNS)}\n")
    writer = csv.writer(text, lineterminator="\n")
    for number, (name, point) in enumerate(points.items(), start=1):
        if place := _found(point):
            score = f"score {scores[name]:.3f}" if name in scores else ""
            # Slicer before 2020 reads only 0 as RAS.
            node = f"vtkMRMLMarkupsFiducialNode_{number}"
            writer.writerow([node, *place, 0, 0, 0, 1, 1, 1, 0, name, score, ""])
    return text.getvalue()


def read_fcsv(path: Path) -> tuple[str, Points]:
    """The coordinate system of an `.fcsv` file ("RAS", "LPS" or "voxel") and its landmarks.

    Raises DatasetError: not a valid `.fcsv` file.
    """
    lines = read_text(path).splitlines()
    system, columns = "RAS", _FCSV_COLUMNS
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = SYSTEMS.get(value.strip().upper(), "")
        elif line.startswith("#") and key.strip() == "columns":
            columns = [name.strip() for name in value.split(",")]
    if not system:
        raise DatasetError(
            f"{path}: CoordinateSystem: expected one of {', '.join(SYSTEMS)}. Correct the file."
        )
    if not {"label", "x", "y", "z"} <= set(columns):
        raise DatasetError(f"{path}: columns: expected label, x, y and z, got {columns}. Correct the file.")

    def places() -> Iterator[tuple[str, Any]]:
        for cells in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
            row = dict(zip(columns, cells, strict=False))
            if not {"label", "x", "y", "z"} <= set(row):
                text = ",".join(cells)
                raise DatasetError(
                    f"{path}: expected {len(columns)} cells per line, got {len(cells)} ({text}). "
                    "Correct the file."
                )
            # Atlases write the number as label and the name as description; the label is the name here.
            yield row["label"].strip(), [row["x"], row["y"], row["z"]]

    return system, collected(places(), path)


def names_points(headers: Sequence[str]) -> bool:
    """Whether the columns of a table are those of landmarks, also as 3D Slicer writes them.

    >>> names_points(["label", "r", "a", "s", "defined"]), names_points(["case", "label", "class"])
    (True, False)
    """
    return column_of(headers, _NAME_COLUMNS) is not None and bool(_system_of(headers)[1])


def _system_of(headers: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The coordinate system that a table has columns for, and these; empty if it has none."""
    lower = {header.lower() for header in headers}
    known = ((system, triple) for system, triples in _AXES.items() for triple in triples)
    return next((each for each in known if set(each[1]) <= lower), ("", ()))


def read_points_of_table(path: Path) -> tuple[str, dict[str, Points]]:
    """The coordinate system of a table and its landmarks by case ("" without a column of cases).

    Raises DatasetError: the table lacks columns, or a position is invalid.
    """
    headers, rows = read_csv(path)
    lower = {header.lower(): header for header in headers}
    name = column_of(headers, _NAME_COLUMNS)
    system, axes = _system_of(headers)
    if name is None or not axes:
        raise DatasetError(
            f"{path}: expected the columns landmark,x,y,z (mm, RAS+), and case if it has several cases, got "
            f"{named(','.join(headers))}. Rename the columns."
        )
    columns = CaseColumns.of(headers)
    cases = [case for case, _ in columns.identify(rows)] if columns else [""] * len(rows)
    places: dict[str, list[tuple[str, list[str]]]] = {}
    for case, row in zip(cases, rows, strict=True):
        of_case = places.setdefault(case, [])
        cells = [row[lower[axis]] for axis in axes]
        if any(cells):
            of_case.append((unescaped(row[name]), cells))
    return system, {
        key: collected(of_case, f"{path}: {key}" if columns else path) for key, of_case in places.items()
    }


def collected(places: Iterable[tuple[str, Any]], where: Path | str) -> Points:
    """Landmarks by name, from the names and positions in a file; `where` is named in the errors.

    Raises DatasetError: a missing or duplicate name, or a position that is not three numbers.
    """
    found: Points = {}
    for name, place in places:
        if not name:
            raise DatasetError(f"{where}: a point has no name. Name it after its landmark.")
        if name in found:
            raise DatasetError(f"{where}: duplicate landmark {named(name)}. Keep one of the two.")
        try:
            x, y, z = (float(value) for value in place)
        except (OverflowError, TypeError, ValueError) as error:
            text = ", ".join(map(str, place)) if isinstance(place, (list, tuple)) else str(place)
            raise DatasetError(
                f"{where}: landmark {named(name)}: expected three numbers, got ({named(text)}). "
                "Use decimal points, not commas."
            ) from error
        found[name] = (x, y, z)
    return found


def _triple(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
