"""Read the landmarks of many cases from a folder of point files, a table or a prepared dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mambamed.cases import Case
from mambamed.documents.agreement import spelled_apart
from mambamed.documents.point_files import read_point_table, read_points
from mambamed.documents.prepared import PreparedIndex
from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import Affine
from mambamed.io.case_columns import CaseColumns
from mambamed.io.images import case_id_of
from mambamed.io.points import EVERY, Points, expanded, names_points, point_suffix, to_world
from mambamed.io.tables import read_csv

# If a case has several point files, the first of these formats is read.
_PREFERRED = (".json", ".mrk.json", ".fcsv", ".csv", ".tsv")
_OTHER_DOCUMENTS = {f"{name}.json" for name in ("run", "summary", "dataset", "splits", "plan", "fingerprint")}


@dataclass(frozen=True)
class PointSet:
    """Landmarks by case."""

    # case id -> landmark -> world mm, RAS+; None if it is absent, no entry if it is not annotated
    points: Mapping[str, Points]
    landmarks: tuple[str, ...]  # names in order; empty if only the cases name them
    source: str  # for messages
    subjects: Mapping[str, str] = field(default_factory=dict)  # case id -> subject, if known
    faults: Mapping[str, CaseError] = field(default_factory=dict)
    files: tuple[Path, ...] = ()  # that were read


AffineOf = Callable[[str], Affine | None]


def landmarks_of(cases: Iterable[Case], source: Path) -> tuple[str, ...]:
    """The landmarks that the cases name, in the order of their first occurrence.

    Raises DatasetError: two cases spell a landmark differently.
    """
    return _names_in({case.id: case.points or {} for case in cases}, str(source))


def _names_in(points: Mapping[str, Iterable[str]], source: str) -> tuple[str, ...]:
    if line := spelled_apart(points):
        raise DatasetError(f"{source}: landmarks: spelled differently: {line}. Use one spelling.")
    return tuple(dict.fromkeys(name for found in points.values() for name in found if name != EVERY))


def with_all_points(cases: Iterable[Case], landmarks: Sequence[str]) -> list[Case]:
    """The cases with the landmarks that `*` stands for."""
    return [replace(case, points=case.points and expanded(dict(case.points), landmarks)) for case in cases]


def read_point_set(place: Path, affine_of: AffineOf = lambda case_id: None) -> PointSet:
    """Read the landmarks of the cases.

    Args:
        place: a folder of point files named by case, one such file, a table `case,landmark,x,y,z`, or a
            prepared dataset.
        affine_of: case id -> affine of its image, for files in voxels.

    Raises DatasetError: no such file, not a file of points, or two cases spell a landmark differently.
    """
    if (place / "dataset.json").is_file():
        return _of_prepared(place)
    if place.is_dir():
        return _of_folder(place, affine_of)
    if not place.is_file():
        raise DatasetError(f"{place}: no such file or folder. Check the path.")
    suffix = point_suffix(place)
    if suffix in {".csv", ".tsv"}:
        system, cases = read_point_table(place)
        if set(cases) != {""}:
            world = lambda case: to_world(cases[case], system, place, affine_of(case))  # noqa: E731
            return replace(_gathered(cases, world, place.name), subjects=_persons_of(place))
    if suffix is None:
        raise DatasetError(f"{place}: not a point file. Use .json, .mrk.json, .fcsv or .csv.")
    case_id = place.name[: -len(suffix)]
    points = read_points(place, affine_of(case_id))
    return PointSet({case_id: expanded(points, [name for name in points if name != EVERY])}, (), place.name)


def holds_points(place: Path) -> bool:
    """Whether a path contains point files, by file names or by the headers of the first table.

    A folder that also contains images is a folder of masks.
    """
    if place.is_file():
        return point_suffix(place) is not None and (not _is_table(place) or _is_point_table(place))
    if not place.is_dir() or any(case_id_of(path) for path in place.iterdir()):
        return False
    files = _point_files(place)
    first = next(iter(files.values()), None)
    return first is not None and (not _is_table(first) or _is_point_table(first))


def _is_table(path: Path) -> bool:
    return point_suffix(path) in {".csv", ".tsv"}


def _is_point_table(path: Path) -> bool:
    try:
        headers, _ = read_csv(path)
    except DatasetError:
        return False
    return names_points(headers)


def _point_files(folder: Path) -> dict[str, Path]:
    """Case id -> the file to read."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = point_suffix(path)
        if suffix is not None and path.is_file() and path.name not in _OTHER_DOCUMENTS:
            found.setdefault(path.name[: -len(suffix)], {})[suffix] = path
    chosen = {case: next(files[s] for s in _PREFERRED if s in files) for case, files in found.items()}
    tables = [case for case, path in chosen.items() if _is_table(path)]
    if len(tables) < len(chosen):  # tables next to files of single cases are about all cases
        chosen = {case: path for case, path in chosen.items() if case not in tables}
    return chosen


def _of_folder(folder: Path, affine_of: AffineOf) -> PointSet:
    files = _point_files(folder)
    if not files:
        raise DatasetError(f"{folder}: no point files. Use .json, .mrk.json, .fcsv or .csv files.")
    if len(files) == 1 and _is_table(only := next(iter(files.values()))):
        return replace(read_point_set(only, affine_of), files=(only,))
    found = _gathered(files, lambda case_id: read_points(files[case_id], affine_of(case_id)), str(folder))
    return replace(found, files=tuple(files.values()))


def _of_prepared(root: Path) -> PointSet:
    index = PreparedIndex.read(root / "dataset.json")
    if not index.landmarks:
        raise DatasetError(
            f"{root}: not a prepared dataset with landmarks. Give the folder of the point files."
        )
    points: dict[str, Points] = {case.id: dict(case.points or {}) for case in index.cases}
    return PointSet(points, index.landmarks, str(root), {case.id: case.subject for case in index.cases})


def _persons_of(table: Path) -> dict[str, str]:
    """Case id -> person, by the columns of a table."""
    headers, rows = read_csv(table)
    columns = CaseColumns.of(headers)
    return dict(columns.identify(rows)) if columns else {}


def _gathered(cases: Iterable[str], read: Callable[[str], Points], source: str) -> PointSet:
    """The points of all cases; an error of one case does not affect the others."""
    points: dict[str, Points] = {}
    faults: dict[str, CaseError] = {}
    for case_id in cases:
        try:
            points[case_id] = read(case_id)
        except CaseError as error:  # noqa: PERF203
            faults[case_id] = error
    names = _names_in(points, source)
    points = {case_id: expanded(found, names) for case_id, found in points.items()}
    return PointSet(points, (), source, faults=faults)
