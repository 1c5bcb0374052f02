"""Read a list of cases written by the user (CSV, TSV or JSON), or a folder of images with such a table.

```
case,subject,T1w,FLAIR,label,class,age          (one row per case; paths are relative to the list's folder)
p01,p01,p01/t1.nii.gz,p01/flair.nii.gz,p01/seg.nii.gz,MS,34
```

| column | content |
|---|---|
| `case` (or `id`, `participant_id`) | case id; see `io.case_columns` |
| `subject`, `patient`, `participant_id` | the person, if a person has several cases |
| `session_id`, `session`, `visit` | the visit, if there is no column `case` |
| `label` (`seg`, `mask`) | label map |
| `points` (`landmarks`) | point file of the case, or of all cases |
| `class`, or the column of `--class-column` | class of the case; empty or "n/a" if it is unknown |
| any column with image files or DICOM folders | a channel with the name of the column |
| any other | a covariate, e.g. age or sex |

Without a column of images, they are searched as `images/CASE.nii.gz` or in the list's folder. A JSON list is
`{"labels": {...}, "channels": {...}, "regions": {...}, "cases": [{...}, ...]}`, with the same keys for each
case; a CSV list may have such a document without `cases` next to it, under the same name. Labels that are not
named are found in the label maps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mambamed.cases import Case, ChannelFile
from mambamed.converters.dicom import ListedSeries
from mambamed.converters.found_classes import found_classes
from mambamed.converters.nnunet import channel_files
from mambamed.converters.options import ConvertOptions, kind_of_channel
from mambamed.converters.point_sets import landmarks_of, with_all_points
from mambamed.converters.segmented import named_labels
from mambamed.documents.agreement import Naming, disagreement, names_only_a_kind, spelled_alike
from mambamed.documents.foreign.case_list import POINT_COLUMNS, CaseList
from mambamed.documents.foreign.nnlandmark import places
from mambamed.documents.foreign.values import labels_and_regions
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.documents.point_files import read_point_table, read_points
from mambamed.errors import CaseError, DatasetError
from mambamed.io.case_columns import EXPECTED, CaseColumns, is_stated
from mambamed.io.images import case_id_of, read_header
from mambamed.io.json_files import read_json
from mambamed.io.points import EVERY, Points, collected, point_suffix, to_world
from mambamed.io.segments import is_segmentation
from mambamed.io.tables import column_of, read_csv, unescaped
from mambamed.schema_errors import named, shortened

Row = Mapping[str, Any]

_TABLES = (".csv", ".tsv")
_LABEL = ("label", "seg", "segmentation", "mask")
_CLASS = ("class",)
_GENERIC_NAMES = {"cases", "classes", "participants", "dataset"}  # the dataset is named by the folder then


@dataclass(frozen=True)
class _List:
    """The file of a list, its rows (column -> cell), and what its document says about all cases."""

    file: Path
    rows: Sequence[Row]
    document: CaseList = field(default_factory=CaseList)

    @cached_property
    def series(self) -> ListedSeries:
        """The DICOM series of its cells."""
        return ListedSeries(self.file.parent)


@dataclass(frozen=True)
class _Columns:
    """The column of each kind; `channels` is channel name -> column."""

    cases: CaseColumns
    label: str | None
    points: str | None
    class_name: str | None
    channels: Mapping[str, str]
    covariates: tuple[str, ...]


def recognizes(source: Path) -> bool:
    """Whether it is a list, or a folder with one table that has a column of cases."""
    if source.is_file():
        return source.suffix.lower() in {*_TABLES, ".json"}
    return table_of(source) is not None


def table_of(folder: Path) -> Path | None:
    """The table in a folder that has a column of cases; None if there is none, or several."""
    tables = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in _TABLES and path.is_file() and not path.name.startswith("."):
            headers, _ = read_csv(path)
            columns = CaseColumns.of(headers)
            if columns and columns.name_visits and not {"landmark", "x"} <= set(headers):
                tables.append(path)
    return tables[0] if len(tables) == 1 else None


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The cases of a list. Raises DatasetError: not a list, or missing or invalid columns."""
    listed = _read(source)
    columns = _columns(listed, options)
    stated = {*listed.document.channels, *(options.channels or {})}
    others = [c for name, c in columns.channels.items() if c.lower() in _LABEL and name not in stated]
    if others:
        both = f"{named(columns.label or '')} and {named(others[0])}"
        raise DatasetError(
            f"{listed.file}: columns {both} both are label maps by their names. Rename the one that is not."
        )
    tables: dict[Path, tuple[str, dict[str, Points]]] = {}
    folder_images = {} if columns.channels else _images_of(listed)
    cases = _cases(columns, listed, folder_images, tables)
    if columns.cases.note and options.progress:
        options.progress.say(f"{listed.file}: {columns.cases.note}")
    manifest = _manifest(listed, columns, cases, options, folder_images)
    cases = with_all_points(cases, manifest.landmarks)
    known = {case.id for case in cases}
    for path, (_, table) in tables.items():
        for case_id in sorted(set(table) - known):
            fault = f"{case_id}: has landmarks in {path}, but no row in {listed.file}. Add the row."
            cases.append(Case.found(case_id, (), fault=fault))
    documents = (listed.file, listed.file.with_suffix(".json"), *_point_files(listed, columns, tables))
    return RawDataset(manifest, sorted(cases, key=lambda case: case.id), documents=documents)


def find_cases(source: Path, channels: Sequence[str], incomplete: bool = False) -> list[Case]:
    """The cases of a list to predict: images and covariates, without labels, landmarks and classes.

    Args:
        channels: the model's channel names, in order; a single channel may have another name in the list.
        incomplete: whether the list may lack the columns of some channels, which are then `missing`.

    Raises DatasetError: not a list, or no column for a channel.
    """
    listed = _read(source)
    columns = _columns(listed, ConvertOptions(channels=dict.fromkeys(channels, "mri")))
    columns = replace(columns, label=None, points=None, class_name=None)
    images = {} if columns.channels else _images_of(listed)
    if incomplete and columns.channels:
        alike = spelled_alike(channels, columns.channels)
        if len(alike) == len(columns.channels):
            headers = {name: columns.channels[alike[name]] if name in alike else "" for name in channels}
            columns = replace(columns, channels=headers)
    lacking = [name for name in channels if columns.channels and name not in columns.channels]
    if lacking:
        found = ", ".join(map(named, columns.channels))
        raise DatasetError(
            f"{listed.file}: no column {', '.join(lacking)}, which the model needs; images are in the "
            f"columns {found}. Add it."
        )
    if (width := len(columns.channels) or _width(images)) != len(channels):
        raise DatasetError(
            f"{listed.file}: expected {len(channels)} channels per case ({', '.join(channels)}), "
            f"got {width}. Add the images."
        )
    return sorted(_cases(columns, listed, images, {}), key=lambda case: case.id)


def _read(source: Path) -> _List:
    file = source if source.is_file() else table_of(source)
    if file is None:
        raise DatasetError(f"{source}: no list of cases, or several. Give the file of the list.")
    if file.suffix.lower() == ".json":
        document = CaseList.read(file)
        return _List(file, document.cases, document)
    _, rows = read_csv(file)
    beside = file.with_suffix(".json")
    content = read_json(beside) if beside.is_file() else {}
    document = CaseList.checked(content if isinstance(content, dict) else {}, beside)
    plain = [{column: unescaped(cell) for column, cell in row.items()} for row in rows]
    return _List(file, plain, document)


def _columns(listed: _List, options: ConvertOptions) -> _Columns:
    if not listed.rows:
        remedy = "Write one row per case, or give the folder of a dataset, not its document."
        raise DatasetError(f"{listed.file}: no cases. {remedy}")
    headers = list(dict.fromkeys(key for row in listed.rows for key in row))
    without = [header for header in headers if header != options.class_column]
    cases = CaseColumns.of(without)
    if cases is None:
        raise DatasetError(f"{listed.file}: no column {EXPECTED}. Add a column with the case ids.")
    if options.class_column is not None and options.class_column not in headers:
        shown = ", ".join(header for header in headers if header not in cases.used)
        raise DatasetError(
            f"--class-column: expected a column of {listed.file} ({shown}), got "
            f"{options.class_column!r}. Choose one of them."
        )
    label, points = (column_of(without, names) for names in (_LABEL, POINT_COLUMNS))
    class_name = options.class_column or column_of(headers, _CLASS)
    cells = [cell for row in listed.rows if label and (cell := _text(row.get(label)))]
    if cells and not _holds_images(listed, label or "") and not any("/" in cell for cell in cells):
        raise DatasetError(
            f"{listed.file}: {label}: expected paths of label maps, got {shortened(cells[0])}. "
            f"If these are classes, give --class-column {label}."
        )
    used = {name.lower(): name for name in (*cases.used, label, points, class_name) if name}
    for header in headers:
        if (other := used.get(header.lower(), header)) != header and other != options.class_column:
            both = f"{named(header)} and {named(other)}"
            raise DatasetError(f"{listed.file}: columns {both} differ only in capitals. Rename one of them.")
    rest = [h for h in headers if h not in {*cases.used, label, points, class_name}]
    channels = _channels(listed, rest, options)
    covariates = tuple(header for header in rest if header not in channels.values())
    return _Columns(cases, label, points, class_name, channels, covariates)


def _channels(listed: _List, headers: Sequence[str], options: ConvertOptions) -> dict[str, str]:
    """Channel -> column. The only channel may be named by a column that says no more than its kind.

    Raises DatasetError: the columns of images have other names than the channels in the document.
    """
    columns = [header for header in headers if _holds_images(listed, header)]
    for names in (list(listed.document.channels), list(options.channels or {})):
        alike = spelled_alike(names, headers)
        if names and len(alike) == len(names):
            return alike
        if len(names) == 1 == len(columns) and any(map(names_only_a_kind, (*names, *columns))):
            return {names[0]: columns[0]}
    if listed.document.channels and columns:
        raise _other_channels(listed, columns)
    return {header: header for header in columns}


def _other_channels(listed: _List, found: Sequence[str]) -> DatasetError:
    stated = ", ".join(map(named, listed.document.channels))
    where = "the document next to it" if listed.file.suffix.lower() in _TABLES else "its key channels"
    return DatasetError(
        f"{listed.file}: channels: names disagree: {', '.join(map(named, found))} (images) | {stated} "
        f"({where}). Correct one of them."
    )


def _holds_images(listed: _List, header: str) -> bool:
    cells = [str(row.get(header) or "") for row in listed.rows]
    return any(
        # Path.is_dir raises an error for text that is longer than a file name can be.
        case_id_of(Path(cell)) or cell.lower().endswith(".dcm") or os.path.isdir(listed.file.parent / cell)  # noqa: PTH112
        for cell in cells
        if cell
    )


def _images_of(listed: _List) -> dict[str, dict[int, Path]]:
    """Case id -> channel number -> file, for a list without a column of images."""
    parent = listed.file.parent
    folder = next((parent / name for name in ("images", "imagesTr") if (parent / name).is_dir()), parent)
    found = channel_files(folder)
    if not found:
        raise DatasetError(
            f"{listed.file}: no column of images, and no images in {folder}. Add a column of images."
        )
    return found


def _width(images: Mapping[str, Mapping[int, Path]]) -> int:
    """Number of channels of the images of `_images_of`."""
    return max((number + 1 for files in images.values() for number in files), default=0)


def _cases(
    columns: _Columns,
    listed: _List,
    folder_images: Mapping[str, Mapping[int, Path]],
    tables: dict[Path, tuple[str, dict[str, Points]]],
) -> list[Case]:
    named_by = columns.cases.identify(listed.rows, folder_images)
    if fault := columns.cases.twice(listed.file, (case_id for case_id, _ in named_by)):
        raise DatasetError(fault)
    width = _width(folder_images)
    return [
        _case(row, case_id, person, columns, listed, folder_images.get(case_id, {}), width, tables)
        for row, (case_id, person) in zip(listed.rows, named_by, strict=True)
    ]


def _case(
    row: Row,
    case_id: str,
    person: str,
    columns: _Columns,
    listed: _List,
    files: Mapping[int, Path],
    width: int,
    tables: dict[Path, tuple[str, dict[str, Points]]],
) -> Case:
    """`files`: channel number -> image, if the list has no column of images; of `width` channels."""
    parent = listed.file.parent
    if not case_id:
        column = columns.cases.case or columns.cases.person
        raise DatasetError(f"{listed.file}: {column}: missing in the row {dict(row)}. Add the case id.")
    fault: str | None = None
    missing: dict[int, str] = {}
    if columns.channels:
        empty = [name for name, column in columns.channels.items() if not _text(row.get(column))]
        if len(empty) < len(columns.channels):
            missing = {k: name for k, name in enumerate(columns.channels) if name in empty}
        cells = [_text(row.get(column)) for column in columns.channels.values()]
        channels = [listed.series.channel(parent / cell) for cell in cells if cell]
        if empty:
            fault = f"{case_id}: channel {', '.join(empty)} has no file in {listed.file}. Add it."
    else:
        channels = [ChannelFile(path) for _, path in sorted(files.items())]
        without = [f"{case_id}_{n:04d}" for n in range(width) if n not in files]
        if not channels:
            fault = f"{case_id}: stands in {listed.file}, but has no image. Add it."
        elif without:
            folder = channels[0].path.parent
            missing = {n: f"{n:04d}" for n in range(width) if n not in files}
            fault = f"{case_id}: channel {', '.join(without)} is missing in {folder}. Add it."
    points = None
    if columns.points and fault is None:
        try:
            points = _points_of(row.get(columns.points), case_id, listed.file, channels[0].path, tables)
        except (CaseError, DatasetError) as error:
            fault = f"{case_id}: {error}"
    label = _text(row.get(columns.label)) if columns.label else ""
    answer = _text(row.get(columns.class_name)) if columns.class_name else ""
    if "/" in case_id or "\\" in case_id:
        raise DatasetError(f"{listed.file}: case id {case_id!r} contains a path separator. Rename the case.")
    return Case.found(
        case_id,
        tuple(channels),
        label=parent / label if label else None,
        points=points,
        class_name=answer if is_stated(answer) else None,
        subject=person,
        covariates={name: _text(row.get(name)) for name in columns.covariates},
        fault=fault,
        missing=missing,
    )


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _points_of(
    cell: Any, case_id: str, file: Path, image: Path, tables: dict[Path, tuple[str, dict[str, Points]]]
) -> Points | None:
    """Landmarks in a cell: an object of positions, a file of the case or of all cases, or "absent"."""
    if isinstance(cell, Mapping):
        return to_world(collected(places(cell), f"{file}: points"), "RAS", file, None)
    if not _text(cell):
        return None
    if _text(cell).lower() == "absent":
        return {EVERY: None}
    path = file.parent / _text(cell)
    if path not in tables and point_suffix(path) in {".csv", ".tsv", ".json"} and _is_of_many(path):
        tables[path] = read_point_table(path)
    if path not in tables:
        return read_points(path, read_header(image).affine)
    system, found = tables[path]
    if case_id not in found:
        return None
    return to_world(found[case_id], system, path, read_header(image).affine if system == "voxel" else None)


def _point_files(listed: _List, columns: _Columns, tables: Mapping[Path, object]) -> list[Path]:
    """The files that the column of points names."""
    cells = [row.get(columns.points) for row in listed.rows] if columns.points else []
    return [*tables, *(listed.file.parent / cell for cell in cells if isinstance(cell, str) and cell)]


def _is_of_many(path: Path) -> bool:
    if point_suffix(path) == ".json":
        document = read_json(path)
        if not isinstance(document, dict) or "markups" in document:
            return False
        return all(isinstance(entry, dict) and "coordinates" not in entry for entry in document.values())
    headers, _ = read_csv(path)
    return CaseColumns.of(headers) is not None


def _manifest(
    listed: _List,
    columns: _Columns,
    cases: Sequence[Case],
    options: ConvertOptions,
    folder_images: Mapping[str, Mapping[int, Path]],
) -> DatasetManifest:
    document, file = listed.document, listed.file
    if columns.channels:
        names = list(columns.channels)
    else:
        count = _width(folder_images) or 1
        names = ["image"] if count == 1 else [f"channel_{number}" for number in range(count)]
        names = list(options.channels) if options.channels and len(options.channels) == count else names
        if document.channels and len(document.channels) != count:
            raise _other_channels(listed, names)
        names = list(document.channels) or names
    kinds = {**(options.channels or {}), **document.channels}
    channels = {name: kinds.get(name) or kind_of_channel(name) for name in names}
    labels: dict[str, int] = {}
    regions: dict[str, tuple[int, ...]] = {}
    if document.labels:
        labels, regions = labels_and_regions(document.labels)
        united = Naming.of("regions", regions=document.regions)
        if line := disagreement(Naming.of("labels", labels, regions), united, only_names=True):
            raise DatasetError(f"{file}: regions: names disagree: {line}. Correct one of them.")
        regions |= document.regions
    elif columns.label:
        given = [case for case in cases if not case.fault]
        if options.labels:
            labels = dict(options.labels)
            if options.progress and not any(case.label and is_segmentation(case.label) for case in given):
                options.progress.say(f"{file}: labels: named by the recipe alone, the list has no names")
        else:
            labels, regions = named_labels(given, options.progress)
    landmarks = tuple(document.landmarks or landmarks_of(cases, file))
    found = [case.class_name for case in cases]
    classes = document.classes or found_classes(found, columns.class_name or "class", file)
    return DatasetManifest.of(
        name=document.name or (file.resolve().parent.name if file.stem in _GENERIC_NAMES else file.stem),
        source=file,
        channels=channels,
        labels=labels,
        regions=regions,
        landmarks=landmarks,
        classes=classes,
    )
