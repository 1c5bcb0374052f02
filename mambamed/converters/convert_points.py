"""Convert landmark files between 3D Slicer's Markups and fcsv, tables and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mambamed.converters.point_sets import read_point_set
from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import Affine
from mambamed.io.images import SUFFIXES, case_id_of, read_header
from mambamed.io.lock import reading
from mambamed.io.ownership import Output, own_file
from mambamed.io.points import Points, point_suffix, write_point_table, write_points

Kind = Literal["mrk.json", "fcsv", "csv", "json"]


@dataclass(frozen=True)
class ConvertSummary:
    """The written file or folder, the ids of its cases, and one fault per case that could not be read."""

    output: Path
    cases: tuple[str, ...]
    points: int
    faults: tuple[str, ...]


def convert_points(
    source: Path, output: Path, *, to: Kind | None = None, images: Path | None = None, overwrite: bool = False
) -> ConvertSummary:
    """Write landmarks in another format; world positions are unchanged.

    Args:
        source: a point file, a folder of them, a table of several cases, or a prepared dataset.
        output: a file, whose suffix selects the format (only a .csv can contain several cases); or, with
            `to`, a folder for one file per case.
        to: format of the files in the folder.
        images: the image, or a folder with one per case, if the source is in voxels.
        overwrite: replace an output file with other content.

    Raises RecipeError: the output is not this command's own; DatasetError: nothing to convert, or several
    cases in a format for one; CaseError: the only case cannot be read.
    """
    suffix = point_suffix(output)
    if to is None and suffix is None:
        raise DatasetError(
            f"-o {output}: expected a .mrk.json, .fcsv, .csv or .json file. Change the suffix, "
            "or use --to for a folder."
        )
    folder = Output(output, "folder of converted points", [source], overwrite=overwrite, edited=("*",))
    file = own_file(output, inputs=[source], replace=overwrite)
    with reading(source), file if to is None else folder.locked():
        found = read_point_set(source, partial(_affine_of, images))
        if not found.points and len(found.faults) == 1:
            raise next(iter(found.faults.values()))
        ordered = {case: _ordered(points, found.landmarks) for case, points in found.points.items()}
        if to is not None:
            for case_id, points in ordered.items():
                write_points(output / f"{case_id}.{to}", points)
        elif len(ordered) == 1 and not (suffix == ".csv" and source.is_dir()):
            write_points(output, next(iter(ordered.values())))
        elif suffix == ".csv":
            write_point_table(output, ordered)
        else:
            raise DatasetError(
                f"-o {output}: expected one case, got {len(ordered)} in {source}. Use a .csv file, or --to "
                "for a folder."
            )
    count = sum(point is not None for points in found.points.values() for point in points.values())
    faults = tuple(f"{case}: {error}" for case, error in found.faults.items())
    return ConvertSummary(output, tuple(found.points), count, faults)


def _ordered(points: Points, names: tuple[str, ...]) -> Points:
    return {name: points[name] for name in names if name in points} if names else points


def _affine_of(images: Path | None, case_id: str) -> Affine | None:
    """The affine of the image of a case."""
    if images is None:
        return None
    if images.is_file():
        if case_id_of(images) is None:
            raise DatasetError(f"--images {images}: not an image. Use NIfTI, NRRD or MetaImage.")
        return read_header(images).affine
    candidates = [images / f"{case_id}{middle}{end}" for middle in ("", "_0000") for end in SUFFIXES]
    there = next((path for path in candidates if path.is_file()), None)
    if there is None:
        raise CaseError(f"{images}: no image of case {case_id}. Add {case_id}.nii.gz.")
    return read_header(there).affine
