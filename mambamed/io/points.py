"""Read landmarks from `.fcsv` files of 3D Slicer and tables; write them as these, Markups or JSON.

| file | coordinates | absent landmark | not annotated |
|---|---|---|---|
| `.mrk.json` | written as LPS | `positionStatus` "missing" | "undefined", "preview", no point |
| `.fcsv` | by `CoordinateSystem`; written as RAS | `# absent = NAME`, status 3 | status 0, 1, no line |
| `.csv`, `.tsv` | see below | empty cells, `status` "absent" | "ignore", `defined` 0, no row |
| `.json` | written as RAS mm, with `coordinate_system` | null | "ignore", no key |

Columns of tables: RAS mm `x,y,z`, `x_ras`...; LPS mm `x_lps`...; voxels `i,j,k`, `x_voxel`... The
`CoordinateSystem` of `.fcsv` is 0 or RAS, 1 or LPS, 2 or IJK.

An absent landmark is one that the object does not have, or that lies outside the image: the network should
find none. A landmark that is not annotated is neither learned nor scored. The name `*` without a position
stands for all landmarks that the file does not name. `mambamed.documents.point_files` reads all of them. In
memory positions are world mm, RAS+.

Source: 3D Slicer, Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json, the user guide of its
Markups module ("Skip": not defined, and not to be placed, saved as "missing"; "Clear": not yet placed, saved
as "undefined"; "Edit": being placed, saved as "preview"), and the `.fcsv` files that it writes, whose
fifteenth cell is the status (0 undefined, 1 preview, 2 defined, 3 missing). Its flags `vis`, `sel` and `lock`
say how points are shown and used, not whether they are there.
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
from mambamed.io.tables import column_of, is_notes, read_csv, unescaped, write_csv
from mambamed.io.text_files import read_text
from mambamed.schema_errors import named

Point = tuple[float, float, float]
Points = dict[str, Point | None]  # None: absent

SUFFIXES = (".mrk.json", ".fcsv", ".csv", ".tsv", ".json")
_NAME_COLUMNS = ("landmark", "name", "label", "point", "afid")
_AXES = {
    "RAS": (("x", "y", "z"), ("x_ras", "y_ras", "z_ras"), ("r", "a", "s"), ("x_mm", "y_mm", "z_mm")),
    "LPS": (("x_lps", "y_lps", "z_lps"), ("l", "p", "s")),
    "voxel": (("x_voxel", "y_voxel", "z_voxel"), ("i", "j", "k")),
}
EVERY = "*"  # in a file, all landmarks that it does not name
_STATUS_COLUMNS = ("status", "position_status", "positionstatus")
_DEFINED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_STATUSES = {
    **dict.fromkeys(("", "defined", "present"), "present"),
    **dict.fromkeys(("absent", "missing", "skip"), "absent"),
    **dict.fromkeys(("ignore", "undefined", "preview", "not annotated"), "ignore"),
}
_FCSV_STATUSES = {"": "present", "0": "ignore", "1": "ignore", "2": "present", "3": "absent"}
_FCSV_STATUS = 14
_ABSENT = "absent"
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
    if path.name.startswith(".") or is_notes(path):
        return None
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def expanded(points: Points, names: Iterable[str]) -> Points:
    """The points with the landmarks of `names` that `*` stands for.

    >>> expanded({"nose": (1.0, 2.0, 3.0), "*": None}, ["nose", "chin"])
    {'nose': (1.0, 2.0, 3.0), 'chin': None}
    """
    if EVERY not in points:
        return points
    return {name: points.get(name) for name in (*(n for n in points if n != EVERY), *names)}


def to_world(found: Points, system: str, path: Path, affine: Affine | None) -> Points:
    """Positions in "RAS", "LPS" or "voxel" -> world mm, RAS+.

    Raises CaseError: a coordinate is NaN or infinite, or voxels without an affine.
    """
    _check_finite(found, path)
    if system == "RAS":
        return dict(found)
    if system == "LPS":
        return {name: p and (0.0 - p[0], 0.0 - p[1], p[2]) for name, p in found.items()}
    if affine is None:
        raise CaseError(f"{path}: coordinates are voxels, but their image is not known. Give that image.")
    with np.errstate(over="ignore", invalid="ignore"):
        world = {name: p and _triple(voxel_to_world(affine, p)) for name, p in found.items()}
    _check_finite(world, path)
    return world


def _check_finite(points: Points, path: Path) -> None:
    for name, point in points.items():
        if point is not None and not all(math.isfinite(value) for value in point):
            raise CaseError(
                f"{path}: landmark {named(name)}: {point} is not a position. "
                "Leave out the position of a landmark that is absent."
            )


def write_points(
    path: Path, points: Mapping[str, Sequence[float] | None], scores: Mapping[str, float] | None = None
) -> None:
    """Write the landmarks of one case atomically; the suffix selects the format.

    Args:
        path: `.mrk.json`, `.fcsv`, `.csv` or `.json`.
        points: landmark name -> world mm, RAS+; None or NaN if absent.
        scores: landmark name -> score, 0 to 1; a column, a key, or the description in Slicer's files.

    Raises ValueError: another suffix, or a position that is not three numbers; RunError: the file cannot be
    written.
    """
    if wrong := [(name, point) for name, point in points.items() if point is not None and len(point) != 3]:
        raise ValueError(f"landmark {wrong[0][0]}: expected three numbers, got {wrong[0][1]}")
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
    cases: Mapping[str, Mapping[str, Sequence[float] | None]],
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the landmarks of many cases as a CSV table, `case,landmark,x,y,z` in world mm, RAS+, atomically.

    Positions of absent landmarks are None or NaN in `cases` and empty cells in the table.
    """
    headers = ["case", "landmark", "x", "y", "z", *(["score"] if scores else [])]
    rows = []
    for case, points in cases.items():
        known = (scores or {}).get(case, {})
        rows += [[case, *_row(name, point, known, bool(scores))] for name, point in points.items()]
    write_csv(path, headers, rows)


def _row(
    name: str, point: Sequence[float] | None, scores: Mapping[str, float], scored: bool = False
) -> list[Any]:
    place = _found(point) or [None, None, None]
    return [name, *place, *([scores.get(name)] if scores or scored else [])]


def _found(point: Sequence[float] | None) -> list[float] | None:
    """The position as plain numbers; None if the landmark is absent."""
    place = [float(value) for value in point or ()]
    return place if place and all(math.isfinite(value) for value in place) else None


def _as_markups(points: Mapping[str, Sequence[float] | None], scores: Mapping[str, float]) -> dict[str, Any]:
    control_points = []
    for number, (name, point) in enumerate(points.items(), start=1):
        place = _found(point)
        x, y, z = place or (0.0, 0.0, 0.0)
        control_points.append({
            "id": str(number), "label": name,
            "description": f"score {scores[name]:.3f}" if name in scores else "", "associatedNodeID": "",
            "position": [0.0 - x, 0.0 - y, z], "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True, "locked": False, "visibility": True,
            "positionStatus": "defined" if place else "missing",
        })  # fmt: skip
    markup = {
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False,
        "fixedNumberOfControlPoints": False, "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control_points), "controlPoints": control_points,
        "measurements": [],
    }  # fmt: skip
    return {"@schema": _SCHEMA, "markups": [markup]}


def _as_fcsv(points: Mapping[str, Sequence[float] | None], scores: Mapping[str, float]) -> str:
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n")
    text.write(f"# columns = {','.join(_FCSV_COLUMNS)}\n")
    writer = csv.writer(text, lineterminator="\n")
    for name, point in points.items():
        if _found(point) is None:
            text.write(f"# {_ABSENT} = {name}\n")  # Slicer ignores it, and would place a line at the origin
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
    system, columns, absent = "RAS", _FCSV_COLUMNS, []
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = SYSTEMS.get(value.strip().upper(), "")
        elif line.startswith("#") and key.strip() == "columns":
            columns = [name.strip() for name in value.split(",")]
        elif line.startswith("#") and key.strip() == _ABSENT:
            absent.append(value.strip())
    if not system:
        raise DatasetError(
            f"{path}: CoordinateSystem: expected one of {', '.join(SYSTEMS)}. Correct the file."
        )
    if not {"label", "x", "y", "z"} <= set(columns):
        raise DatasetError(f"{path}: columns: expected label, x, y and z, got {columns}. Correct the file.")

    def places() -> Iterator[tuple[str, Any]]:
        yield from ((name, None) for name in absent)
        for cells in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
            row = dict(zip(columns, cells, strict=False))
            if not {"label", "x", "y", "z"} <= set(row):
                text = ",".join(cells)
                raise DatasetError(
                    f"{path}: expected {len(columns)} cells per line, got {len(cells)} ({text}). "
                    "Correct the file."
                )
            cell = cells[_FCSV_STATUS].strip() if len(cells) > _FCSV_STATUS else ""
            status = _FCSV_STATUSES.get(cell if len(columns) == len(_FCSV_COLUMNS) else "")
            if status is None:
                raise DatasetError(
                    f"{path}: {row['label'].strip()}: expected the status 0, 1, 2 or 3, got {named(cell)}. "
                    "Correct the file."
                )
            # Atlases write the number as label and the name as description; the label is the name here.
            if status != "ignore":
                yield row["label"].strip(), None if status == "absent" else [row["x"], row["y"], row["z"]]

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
    places: dict[str, list[tuple[str, list[str] | None]]] = {}
    for case, row in zip(cases, rows, strict=True):
        of_case = places.setdefault(case, [])
        cells, landmark = [row[lower[axis]] for axis in axes], unescaped(row[name])
        status = _status_of(row, lower, f"{path}: {landmark}", any(cells))
        if status != "ignore" and (landmark or any(cells)):
            of_case.append((landmark, cells if status == "present" else None))
    return system, {
        key: collected(of_case, f"{path}: {key}" if columns else path) for key, of_case in places.items()
    }


def _status_of(row: Mapping[str, str], lower: Mapping[str, str], where: str, placed: bool) -> str:
    """What a row says of its landmark: "present", "absent" or "ignore".

    Args:
        lower: column in lower case -> column.
        placed: whether the row has coordinates.

    Raises DatasetError: another status, or one that contradicts the coordinates.
    """
    status = "present" if placed else "absent"
    for column in (lower[name] for name in _STATUS_COLUMNS if name in lower):
        text = row[column].strip().lower()
        given = _STATUSES.get(text)
        if given is None:
            known = "defined, absent or ignore"
            raise DatasetError(f"{where}: {column}: expected {known}, got {named(text)}. Correct it.")
        if given == "present" and text and not placed:
            raise DatasetError(
                f"{where}: {column} is {named(text)}, but the row has no position. Correct it."
            )
        status = given if text else status
    if "defined" in lower and (text := row[lower["defined"]].strip().lower()):
        if text not in _DEFINED:
            raise DatasetError(f"{where}: defined: expected 1 or 0, got {named(text)}. Correct it.")
        if not _DEFINED[text]:
            status = "absent" if status == "absent" and placed else "ignore"
    return status


def collected(places: Iterable[tuple[str, Any]], where: Path | str) -> Points:
    """Landmarks by name, from the names and positions in a file (None: absent); `where` is named in errors.

    Raises DatasetError: a missing or duplicate name, or a position that is not three numbers.
    """
    found: Points = {}
    for name, place in places:
        if not name:
            raise DatasetError(f"{where}: a point has no name. Name it after its landmark.")
        if name in found:
            raise DatasetError(f"{where}: duplicate landmark {named(name)}. Rename one of the two.")
        if place is None:
            found[name] = None
            continue
        if name == EVERY:
            raise DatasetError(f"{where}: {EVERY} stands for all other landmarks. Leave out its position.")
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
