"""Images with one point file per case, or the raw dataset of nnLandmark.

| layout | images | points |
|---|---|---|
| one per case | `images/CASE.nii.gz` or same folder | `landmarks/CASE.mrk.json`, `.fcsv`, `.csv`, `.json` |
| one table | `images/CASE.nii.gz` | `points.csv` with `case,landmark,x,y,z` (mm, RAS+) |
| nnLandmark | `imagesTr/CASE_0000.nii.gz` | `all_landmarks_voxel.json`; `name_to_label.json` has the order |

A landmark that is not in a file is not annotated in that case. `mambamed.io.points` says how files state that
a landmark is absent.

Source: nnLandmark's readme, "Data Format" (Ertl et al. 2026, arXiv:2504.06742).
"""

from __future__ import annotations

from pathlib import Path

from mambamed.cases import Case, ChannelFile
from mambamed.converters.nnunet import channel_files
from mambamed.converters.options import ConvertOptions, kind_of_channel
from mambamed.converters.point_sets import landmarks_of, with_all_points
from mambamed.documents.agreement import names_only_a_kind
from mambamed.documents.base import validated
from mambamed.documents.foreign.nnlandmark import NameToLabel, NnlandmarkDataset
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.documents.point_files import read_point_table, read_points
from mambamed.errors import CaseError, DatasetError
from mambamed.io.images import put_once, read_header
from mambamed.io.json_files import read_json
from mambamed.io.points import point_suffix, to_world
from mambamed.io.tables import read_csv
from mambamed.numerals import is_whole

_ALL_VOXELS = "all_landmarks_voxel.json"
_ORDER = "name_to_label.json"
_POINT_FOLDERS = ("landmarks", "points", "landmarksTr", "annotations")
_IMAGE_FOLDERS = ("images", "imagesTr")
_TABLES = ("points.csv", "landmarks.csv", "points.tsv", "landmarks.tsv")


def recognizes(source: Path) -> bool:
    """Whether there are images and points with the same names."""
    if not source.is_dir():
        return False
    if (source / _ALL_VOXELS).is_file() or _table_of(source):
        return True
    images = _images(source)
    return any(case_id in images for case_id in _point_files(source, surely=True))


def convert(source: Path, options: ConvertOptions) -> RawDataset:
    """The cases with images or points; if either is missing, that is the case's `fault`.

    Raises DatasetError: two files of one case, or an invalid document or table.
    """
    images, table = _images(source), _table_of(source)
    many = source / _ALL_VOXELS if (source / _ALL_VOXELS).is_file() else table
    if many is not None:
        system, places = read_point_table(many)
        where, answers = dict.fromkeys(places, many), set(places)
    else:
        system, places, where = "", {}, _point_files(source, surely=False)
        answers = set(where)
    width = max((number + 1 for files in images.values() for number in files), default=1)
    cases = []
    for case_id in sorted(set(images) | answers):
        files = [path for _, path in sorted(images.get(case_id, {}).items())]
        points, fault = None, None
        if len(files) < width:
            fault = f"{case_id}: {len(files)} of {width} images of this case are in {source}. Add them."
        elif case_id not in answers:
            # nnLandmark's document lists test cases too; other datasets may have images without points.
            fault = f"{case_id}: no landmarks for this case in {source}. Add them, or move its image."
        else:
            try:
                affine, path = read_header(files[0]).affine, where[case_id]
                found = places.get(case_id)
                points = read_points(path, affine) if found is None else to_world(found, system, path, affine)
            except (CaseError, DatasetError) as error:
                fault = f"{case_id}: {error}"
        cases.append(Case.found(case_id, tuple(map(ChannelFile, files)), points=points, fault=fault))
    manifest = _manifest(source, options, cases, width)
    cases = with_all_points(cases, manifest.landmarks)
    if (source / _ALL_VOXELS).is_file():  # this document also lists the test cases
        tests = channel_files(source / "imagesTs")
        cases = [case for case in cases if case.channels or case.id not in tests]
    documents = (*where.values(), source / _ORDER, source / "dataset.json")
    return RawDataset(manifest, cases, documents=documents)


def _manifest(source: Path, options: ConvertOptions, cases: list[Case], width: int) -> DatasetManifest:
    file = source / "dataset.json"
    names = (NnlandmarkDataset.read(file).channel_names if file.is_file() else None) or {}
    # Sorted by number: "10" after "9".
    keys = sorted(names, key=lambda key: (int(key) if is_whole(key) else -1, key))
    named = dict.fromkeys(names[key] for key in keys)
    if len(named) != width:
        named = dict.fromkeys(["image"] if width == 1 else [f"channel_{n}" for n in range(width)])
    channels = {name: kind_of_channel(name) for name in named}
    if options.channels and len(options.channels) == width and all(map(names_only_a_kind, named)):
        channels = dict(options.channels)
    if (source / _ORDER).is_file():
        order = validated(NameToLabel, read_json(source / _ORDER), source / _ORDER).root
        landmarks = sorted(order, key=lambda name: order[name])
    else:
        landmarks = landmarks_of(cases, source)
    return DatasetManifest.of(
        name=source.resolve().name, source=source, channels=channels, landmarks=tuple(landmarks)
    )


def _table_of(source: Path) -> Path | None:
    for name in _TABLES:
        if (source / name).is_file():
            headers, _ = read_csv(source / name)
            if {"case", "landmark"} <= {header.lower() for header in headers}:
                return source / name
    return None


def _images(source: Path) -> dict[str, dict[int, Path]]:
    folder = next((source / name for name in _IMAGE_FOLDERS if (source / name).is_dir()), source)
    return channel_files(folder)


def _point_files(source: Path, surely: bool) -> dict[str, Path]:
    """Case id -> point file; `surely`: outside a folder of points, only formats that are always points.

    Raises DatasetError: two point files of one case.
    """
    folder = next((source / name for name in _POINT_FOLDERS if (source / name).is_dir()), source)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        suffix = point_suffix(path)
        if suffix is None or (folder == source and surely and suffix not in {".mrk.json", ".fcsv"}):
            continue
        case_id = path.name[: -len(suffix)]
        if folder == source and suffix in {".json", ".csv", ".tsv"} and case_id not in _images(source):
            continue
        put_once(found, case_id, path, case_id, folder)
    return found
