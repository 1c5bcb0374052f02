"""Landmarks in files: 3D Slicer's Markups and `.fcsv`, CSV tables, JSON; always world mm, RAS+ in memory.

| file | coordinates | a landmark that is absent |
|---|---|---|
| `.mrk.json` | what `coordinateSystem` says; written as LPS, Slicer's own | `positionStatus` "undefined" |
| `.fcsv` | what `CoordinateSystem` says (0 and RAS, 1 and LPS, 2 and IJK); written as RAS | no line |
| `.csv`, `.tsv` | RAS mm `x,y,z`, `x_ras`...; LPS mm `x_lps`...; voxels `i,j,k`, `x_voxel`... | empty cells |
| `.json` with `coordinate_system` | RAS mm, ours | null |
| other `.json` | voxels, nnLandmark's: `{name: [i, j, k]}`, `{name: {"coordinates": [i, j, k]}}` | null |

Source: 3D Slicer, Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json and the `.fcsv` files
that it writes; nnLandmark's readme ("Additional JSONs"), whose voxels are nibabel's `(i, j, k)`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import Affine, voxel_to_world
from mambamed.io.atomic import write_text
from mambamed.io.json_files import read_json, write_json
from mambamed.io.tables import CASE_COLUMNS, column_of, read_csv, unescaped, write_csv

Point = tuple[float, float, float]
Points = dict[str, Point]

SUFFIXES = (".mrk.json", ".fcsv", ".csv", ".tsv", ".json")
POINT_CASE_COLUMNS = (*CASE_COLUMNS, "subject")
_NAME_COLUMNS = ("landmark", "name", "label", "point", "afid")
_AXES = {
    "RAS": (("x", "y", "z"), ("x_ras", "y_ras", "z_ras"), ("r", "a", "s"), ("x_mm", "y_mm", "z_mm")),
    "LPS": (("x_lps", "y_lps", "z_lps"), ("l", "p", "s")),
    "voxel": (("x_voxel", "y_voxel", "z_voxel"), ("i", "j", "k")),
}
_SYSTEMS = {"0": "RAS", "1": "LPS", "2": "voxel", "RAS": "RAS", "LPS": "LPS", "IJK": "voxel"}
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = [
    "id",
    "x",
    "y",
    "z",
    "ow",
    "ox",
    "oy",
    "oz",
    "vis",
    "sel",
    "lock",
    "label",
    "desc",
    "associatedNodeID",
]
_DOCUMENT_KEY = "coordinate_system"


def point_suffix(path: Path) -> str | None:
    """The suffix of a point file, in lower case; None for what is none by its name.

    >>> point_suffix(Path("a.mrk.json")), point_suffix(Path("a.b.FCSV")), point_suffix(Path("a.nii.gz"))
    ('.mrk.json', '.fcsv', None)
    """
    if path.name.startswith("."):
        return None
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def read_points(path: Path, affine: Affine | None = None) -> Points:
    """The landmarks of one case.

    Args:
        path: a file of one of the kinds above.
        affine: `(4, 4)` voxel -> world of the case's image, for files that count in voxels.

    Returns:
        Landmark name -> position in world mm, RAS+, in the file's order; absent ones are left out.

    Raises:
        CaseError: a coordinate that is none, or voxels and no affine.
        DatasetError: not such a file, a landmark twice, or a table of several cases.
    """
    suffix = point_suffix(path)
    if suffix == ".mrk.json":
        system, found = _markups(path)
    elif suffix == ".fcsv":
        system, found = _fcsv(path)
    elif suffix == ".json":
        document = read_json(path)
        if isinstance(document, dict) and "markups" in document:
            system, found = _markups(path)
        else:
            system, found = _document(document, path)
    elif suffix in {".csv", ".tsv"}:
        system, cases = _table(path)
        if len(cases) > 1:
            raise DatasetError(f"{path}: holds {len(cases)} cases; give one file a case, or a list of cases")
        found = next(iter(cases.values()), {})
    else:
        raise DatasetError(f"{path}: no point file; give {', '.join(SUFFIXES)}")
    return to_world(found, system, path, affine)


def read_point_table(path: Path) -> tuple[str, dict[str, Points]]:
    """The landmarks of many cases: a table with a column `case`, or nnLandmark's `{case: {name: [i, j, k]}}`.

    Returns:
        The system, "RAS", "LPS" or "voxel", for `to_world`; case id -> landmark name -> position in it.
        A coordinate that is NaN stays so; absent landmarks are left out.

    Raises:
        DatasetError: not such a file, a landmark twice, or a coordinate that is no number.
    """
    if point_suffix(path) == ".json":
        document = read_json(path)
        if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
            raise DatasetError(f"{path}: is no document of the landmarks of cases; see docs/datasets.md")
        return "voxel", {str(case): _document(entry, path)[1] for case, entry in document.items()}
    return _table(path)


def to_world(found: Mapping[str, Point], system: str, path: Path, affine: Affine | None) -> Points:
    """Positions in "RAS", "LPS" or "voxel" -> world mm, RAS+.

    Raises:
        CaseError: a coordinate is NaN or infinite, or voxels and no affine.
    """
    for name, point in found.items():
        if not all(math.isfinite(value) for value in point):
            raise CaseError(
                f"{path}: landmark {name} at {point} has no position; leave out a landmark that is absent"
            )
    if system == "RAS":
        return dict(found)
    if system == "LPS":
        return {name: (0.0 - x, 0.0 - y, z) for name, (x, y, z) in found.items()}
    if affine is None:
        raise CaseError(f"{path}: its coordinates are voxels, of an image that is not known; give that image")
    return {name: _triple(voxel_to_world(affine, point)) for name, point in found.items()}


def write_points(
    path: Path, points: Mapping[str, Sequence[float]], scores: Mapping[str, float] | None = None
) -> None:
    """Write the landmarks of one case, atomically, in the kind that the suffix says.

    Args:
        path: `.mrk.json`, `.fcsv`, `.csv` or `.json`.
        points: landmark name -> world mm, RAS+; NaN where it was not found.
        scores: landmark name -> how sure it is, 0 to 1; a column, a key, or a description in Slicer's files.

    Raises:
        ValueError: another suffix, or a position that is not three numbers.
        RunError: the file cannot be written.
    """
    if wrong := [name for name, point in points.items() if len(point) != 3]:
        raise ValueError(f"landmark {wrong[0]}: a position is three numbers, not {points[wrong[0]]}")
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
        document: dict[str, Any] = {_DOCUMENT_KEY: "RAS", "unit": "mm", "points": places}
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

    Args:
        path: a .csv file.
        cases: case id -> landmark name -> position; NaN where it was not found.
        scores: case id -> landmark name -> how sure it is.
    """
    headers = ["case", "landmark", "x", "y", "z", *(["score"] if scores else [])]
    known = scores or {}
    rows = [
        [case, *_row(name, point, known.get(case, {}), scored=bool(scores))]
        for case, points in cases.items()
        for name, point in points.items()
    ]
    write_csv(path, headers, rows)


def _row(name: str, point: Sequence[float], scores: Mapping[str, float], scored: bool = False) -> list[Any]:
    place = _found(point) or [None, None, None]
    return [name, *place, *([scores.get(name)] if scores or scored else [])]


def _found(point: Sequence[float]) -> list[float] | None:
    """The position as plain numbers; None where the landmark was not found."""
    place = [float(value) for value in point]
    return place if all(math.isfinite(value) for value in place) else None


def _as_markups(points: Mapping[str, Sequence[float]], scores: Mapping[str, float]) -> dict[str, Any]:
    control_points = []
    for number, (name, point) in enumerate(points.items(), start=1):
        place = _found(point)
        x, y, z = place or (0.0, 0.0, 0.0)
        control_points.append(
            {
                "id": str(number),
                "label": name,
                "description": f"score {scores[name]:.3f}" if name in scores else "",
                "associatedNodeID": "",
                "position": [0.0 - x, 0.0 - y, z],
                "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined" if place else "undefined",
            }
        )
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control_points),
        "controlPoints": control_points,
        "measurements": [],
    }
    return {"@schema": _SCHEMA, "markups": [markup]}


def _as_fcsv(points: Mapping[str, Sequence[float]], scores: Mapping[str, float]) -> str:
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n")
    text.write(f"# columns = {','.join(_FCSV_COLUMNS)}\n")
    writer = csv.writer(text, lineterminator="\n")
    for number, (name, point) in enumerate(points.items(), start=1):
        if place := _found(point):
            score = f"score {scores[name]:.3f}" if name in scores else ""
            # A Slicer of before 2020 takes 0 alone for RAS.
            node = f"vtkMRMLMarkupsFiducialNode_{number}"
            writer.writerow([node, *place, 0, 0, 0, 1, 1, 1, 0, name, score, ""])
    return text.getvalue()


def _markups(path: Path) -> tuple[str, Points]:
    document = read_json(path)
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise DatasetError(f"{path}: is no Markups file of 3D Slicer; save the points anew")
    systems = {str(markup.get("coordinateSystem", "LPS")).upper() for markup in markups}
    if len(systems) != 1 or not systems <= {"RAS", "LPS"}:
        raise DatasetError(f"{path}: coordinateSystem {sorted(systems)} is neither RAS nor LPS; correct it")
    # A unit is a word, or DICOM's list of code, scheme and meaning.
    given = [markup.get("coordinateUnits", "mm") for markup in markups]
    units = {str(unit[0] if isinstance(unit, list) and unit else unit) for unit in given}
    if units - {"mm"}:
        raise DatasetError(f"{path}: coordinateUnits {sorted(units)}, not mm; save the points in mm")
    found: Points = {}
    for markup in markups:
        for point in markup.get("controlPoints") or []:
            if not isinstance(point, dict):
                raise DatasetError(f"{path}: control point {point!r} is none; save the points anew")
            if point.get("positionStatus", "defined") in {"undefined", "missing"}:
                continue
            _add(found, str(point.get("label") or ""), point.get("position"), path)
    return systems.pop(), found


def _fcsv(path: Path) -> tuple[str, Points]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text in UTF-8; save it as such") from error
    system, columns = "RAS", _FCSV_COLUMNS
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = _SYSTEMS.get(value.strip().upper(), "")
        elif line.startswith("#") and key.strip() == "columns":
            columns = [name.strip() for name in value.split(",")]
    if not system or not {"label", "x", "y", "z"} <= set(columns):
        raise DatasetError(f"{path}: its coordinate system or columns are not those of an fcsv; save it anew")
    found: Points = {}
    for cells in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
        row = dict(zip(columns, cells, strict=False))
        if not {"label", "x", "y", "z"} <= set(row):
            raise DatasetError(f"{path}: a line has {len(cells)} of {len(columns)} cells ({','.join(cells)})")
        # Atlases write the number as label and the name as description; the label is the name here.
        _add(found, row["label"].strip(), [row["x"], row["y"], row["z"]], path)
    return system, found


def _table(path: Path) -> tuple[str, dict[str, Points]]:
    headers, rows = read_csv(path)
    lower = {header.lower(): header for header in headers}
    name = column_of(headers, _NAME_COLUMNS)
    system, axes = next(
        (
            (system, [lower[axis] for axis in triple])
            for system, triples in _AXES.items()
            for triple in triples
            if set(triple) <= set(lower)
        ),
        ("", []),
    )
    if name is None or not axes:
        raise DatasetError(
            f"{path}: no table of points; it needs the columns landmark,x,y,z (mm, RAS+), case for several"
        )
    case = column_of(headers, POINT_CASE_COLUMNS)
    cases: dict[str, Points] = {}
    for row in rows:
        found = cases.setdefault(unescaped(row[case]) if case else "", {})
        cells = [row[axis] for axis in axes]
        if any(cells):
            place = f"{path}: {row[case]}" if case else path
            _add(found, unescaped(row[name]), cells, place)
    return system, cases


def _document(document: Any, path: Path) -> tuple[str, Points]:
    system = "voxel"
    if isinstance(document, dict) and _DOCUMENT_KEY in document:
        system = _SYSTEMS.get(str(document[_DOCUMENT_KEY]), "")
        document = document.get("points")
    if not isinstance(document, dict) or not system:
        raise DatasetError(f"{path}: is no document of points; see docs/datasets.md")
    found: Points = {}
    for name, entry in document.items():
        place = entry.get("coordinates") if isinstance(entry, dict) else entry
        if place is not None and not (isinstance(place, list) and set(map(str, place)) == {"None"}):
            _add(found, str(name), place, path)
    return system, found


def _add(found: Points, name: str, place: Any, where: Path | str) -> None:
    if not name:
        raise DatasetError(f"{where}: a point has no name; name it as the landmark that it is")
    if name in found:
        raise DatasetError(f"{where}: duplicate landmark {name}; keep one")
    try:
        x, y, z = (float(value) for value in place)
    except (OverflowError, TypeError, ValueError) as error:
        text = ", ".join(map(str, place)) if isinstance(place, (list, tuple)) else str(place)
        raise DatasetError(
            f"{where}: landmark {name} at ({text[:200]}) is not three numbers; mind decimal commas"
        ) from error
    found[name] = (x, y, z)


def _triple(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
