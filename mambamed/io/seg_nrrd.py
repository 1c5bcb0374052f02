"""Segmentations of 3D Slicer, `CASE.seg.nrrd`: NRRD with the names of segments in its header.

Segments that share voxels are in different layers, the first axis of a 4-D file. The file holds the part of
the image that its segments need.

Source: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html (file format);
http://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine
from mambamed.io.atomic import write_bytes
from mambamed.io.images import MAX_VOXELS, check_file, faults_named, smallest_integer
from mambamed.io.segments import Contents, Part, Shape, other_lattice, placed, placement, resampled
from mambamed.numerals import is_whole
from mambamed.schema_errors import named, shortened

_KEY = re.compile(r"Segment(\d{1,6})_(Name|LabelValue|Layer)")


@dataclass(frozen=True)
class _Header:
    shape: Shape
    affine: Affine
    segments: dict[str, tuple[int, int]]  # name -> layer, value


@faults_named
def read_contents(path: Path) -> Contents:
    """See `segments.read_contents`."""
    found = _header(path).segments
    layers = {layer for layer, _ in found.values()}
    return Contents({name: value for name, (_, value) in found.items()}, may_overlap=len(layers) > 1)


def own_grid(path: Path) -> tuple[Shape, Affine]:
    """See `segments.own_grid`."""
    header = _header(path)
    return header.shape, header.affine


@faults_named
def read_parts(path: Path, shape: Shape, affine: Affine, resample: bool = False) -> list[Part]:
    """See `segments.read_parts`."""
    from mambamed.io import itk

    header = _header(path)
    layers = itk.read_layers(path, MAX_VOXELS)
    where = placement(header.affine, header.shape, affine)
    if where is None and not resample:
        raise other_lattice(path, header.affine, affine)
    parts = []
    for number, layer in enumerate(layers):
        here = {value: name for name, (at, value) in header.segments.items() if at == number}
        if unknown := [value for value in np.unique(layer).tolist() if value and value not in here]:
            raise CaseError(f"{path}: value {unknown[0]} in layer {number} has no segment. Save it again.")
        for value, name in here.items():
            mask = layer == value
            if where is None:
                mask = resampled(mask, header.affine, shape, affine)
            at = where or (np.eye(3, dtype=np.int64), np.zeros(3, np.int64))
            if part := placed(path, name, mask, at, shape):
                parts.append(part)
    return parts


def _header(path: Path) -> _Header:
    from mambamed.io import itk

    check_file(path)
    shape, count, affine, dtype, keys = itk.read_layers_header(path, MAX_VOXELS)
    if dtype.kind not in "iu":
        raise CaseError(f"{path}: holds {dtype} voxels, not integers. Save it as a segmentation.")
    facts: dict[int, dict[str, str]] = {}
    for key, text in keys.items():
        if (match := _KEY.fullmatch(key)) and is_whole(match[1]):
            facts.setdefault(int(match[1]), {})[match[2]] = text.strip()
    segments: dict[str, tuple[int, int]] = {}
    numbers = [number for number, each in sorted(facts.items()) if "Name" in each]
    for place, number in enumerate(numbers):
        name = facts[number]["Name"]
        # Versions of Slicer before 4.11 write neither: one layer per segment, with the value 1.
        layer = _whole(facts[number].get("Layer", str(place if count > 1 else 0)))
        value = _whole(facts[number].get("LabelValue", "1"))
        if not name or not name.isprintable() or layer not in range(count) or value < 1:
            raise CaseError(
                f"{path}: segment {number}: name {shortened(name)}, layer {layer} of {count}, value {value} "
                "cannot be. Save it again from 3D Slicer."
            )
        if name in segments:
            raise CaseError(f"{path}: two segments are named {named(name)}. Rename one of them.")
        if (layer, value) in segments.values():
            other = next(other for other, place in segments.items() if place == (layer, value))
            raise CaseError(
                f"{path}: segments {named(other)} and {named(name)} both have value {value} in layer "
                f"{layer}. Save it again from 3D Slicer."
            )
        segments[name] = layer, value
    if not segments:
        raise CaseError(f"{path}: names no segments. Save it from 3D Slicer, or rename it to .nrrd.")
    return _Header(shape, affine, segments)


def _whole(text: str) -> int:
    """A whole number; -1 for other text."""
    return int(text) if is_whole(text) else -1


def write_seg_nrrd(
    path: Path,
    labels: NDArray,
    affine: Affine,
    segments: Mapping[str, Sequence[int]],
    colors: Sequence[tuple[float, float, float]],
) -> None:
    """Write a label map as a segmentation of 3D Slicer, atomically.

    Args:
        path: `.seg.nrrd`.
        labels: `(X, Y, Z)` integers.
        affine: voxel -> world, mm, RAS+.
        segments: name -> the labels it unites; each becomes a segment even if it is absent. Segments with a
            label in common get layers of their own.
        colors: of the segments, red, green and blue from 0 to 1.

    Raises RunError: the file cannot be written.
    """
    layers: list[dict[str, Sequence[int]]] = []
    for name, members in segments.items():
        free = (layer for layer in layers if not any(set(members) & set(m) for m in layer.values()))
        if (layer := next(free, None)) is None:
            layers.append(layer := {})
        layer[name] = members
    dtype = smallest_integer(max(max(members) for members in segments.values()))
    stack = np.zeros((len(layers), *labels.shape), dtype, order="F")
    for number, layer in enumerate(layers):
        table = np.zeros(max(int(labels.max(initial=0)), np.iinfo(np.uint8).max) + 1, dtype)
        for members in layer.values():
            table[[m for m in members if m < len(table)]] = members[0]
        stack[number] = table[labels]
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3] + 0.0
    vectors = [f"({','.join(f'{v:.17g}' for v in column)})" for column in lps.T]
    several = len(layers) > 1
    lines = [
        "NRRD0004",
        f"type: {dtype.name}",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, stack.shape if several else labels.shape))}",
        f"space directions: {'none ' * several}{' '.join(vectors[:3])}",
        f"kinds: {'list ' * several}domain domain domain",
        *(["endian: little"] if dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    for number, (name, members) in enumerate(segments.items()):
        facts = {
            "Color": " ".join(f"{part:.6g}" for part in colors[number]),
            "ColorAutoGenerated": "1",
            "Extent": extent,
            "ID": f"Segment_{number + 1}",
            "LabelValue": str(members[0]),
            "Layer": str(next(n for n, layer in enumerate(layers) if name in layer)),
            "Name": name.replace("\\", "\\\\"),
            "NameAutoGenerated": "0",
            "Tags": "|",
        }
        lines += [f"Segment{number}_{key}:={value}" for key, value in facts.items()]
    lines += [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ConversionParameters:=",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    voxels = stack.astype(dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    head = "\n".join(lines) + "\n\n"
    write_bytes(path, head.encode() + gzip.compress(voxels, 4, mtime=0))
