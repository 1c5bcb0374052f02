"""Labels of segmentations with named segments: a name means the same in every case, whatever its value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mambamed.cases import BACKGROUND, Case
from mambamed.converters.found_labels import labels_in
from mambamed.documents.agreement import one_spelling_twice, spelled_alike, spelling
from mambamed.documents.manifest import RawDataset
from mambamed.errors import CaseError, DatasetError
from mambamed.io.images import read_header
from mambamed.io.segments import Contents, is_segmentation, own_grid, read_contents, read_parts, sets_of
from mambamed.progress import Progress, Silence
from mambamed.schema_errors import named, some_of

_READERS = 4  # files read at once

Labels = tuple[dict[str, int], dict[str, tuple[int, ...]]]  # label -> value, region -> values


@dataclass(frozen=True)
class _Seen:
    """The segments of a case: its file, what the header says, and the sets of segments that share voxels."""

    case: str
    path: Path
    contents: Contents
    sets: Mapping[frozenset[str], int]  # segments -> number of voxels


def with_segments(dataset: RawDataset) -> RawDataset:
    """The dataset, with one warning about structures that some of its segmentations lack."""
    labeled = {case.id: case.label for case in dataset.cases if case.label and is_segmentation(case.label)}
    manifest = dataset.manifest
    notes: list[str] = []
    missing: dict[str, list[str]] = {}
    for case_id, path in labeled.items():
        try:
            contents = read_contents(path)
        except CaseError:  # examining the case reports that
            continue
        if contents.ignored:
            notes.append(f"{path}: {some_of(map(named, contents.ignored))} has no volume and is ignored")
        here = {*spelled_alike(contents.values, [*manifest.labels, *manifest.regions]).values()}
        values = {value for label, value in manifest.labels.items() if label in here}
        for name, members in manifest.foreground.items():
            if name not in here and not values & {*members}:
                missing.setdefault(name, []).append(case_id)
    if missing:
        listed = "; ".join(f"{named(name)} in {some_of(ids)}" for name, ids in missing.items())
        notes.append(
            f"{manifest.name}: structures that some cases lack: {listed}. They count as absent there; a file "
            "does not say whether a structure is absent or was not contoured"
        )
    return replace(dataset, warnings=(*dataset.warnings, *notes)) if notes else dataset


def named_labels(cases: Sequence[Case], progress: Progress | None = None) -> Labels:
    """The labels in the files of cases, for a dataset that does not name them.

    Segments keep their values if these agree, and are counted from 1 if not. If segments share voxels, they
    become regions.

    Raises DatasetError: segments of different cases contradict each other.
    """
    labeled = [case for case in cases if case.label is not None]
    segmented = [case for case in labeled if case.label and is_segmentation(case.label)]
    ids = {case.id for case in segmented}
    plain = [case for case in labeled if case.id not in ids]
    if not segmented:
        return labels_in((case.label for case in plain), progress), {}
    seen = _in_one_spelling(_look(segmented, progress))
    values = _values(seen)
    if plain:
        values = _with_plain(values, seen, plain, progress)
    labels = {BACKGROUND: 0} | values
    sets = [united for each in seen for united in each.sets]
    if any(len(united) > 1 for united in sets):
        return _as_regions(labels, seen)
    return labels, {}


def _look(cases: Sequence[Case], progress: Progress | None) -> list[_Seen]:
    """What the files of the cases hold; damaged ones are left out, because examining them reports that."""
    progress = progress or Silence()
    progress.start("finding labels", len(cases), "segmentations")
    seen = []
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        for found in pool.map(_seen, cases):
            seen += [found] if found else []
            progress.advance()
    return seen


def _seen(case: Case) -> _Seen | None:
    assert case.label is not None
    try:
        contents = read_contents(case.label)
    except CaseError:
        return None
    sets: dict[frozenset[str], int] = {}
    if contents.may_overlap:
        with suppress(CaseError, ValueError):  # reading the case reports that
            grid = own_grid(case.label)
            if case.channels:
                header = read_header(case.channels[0].path, files=case.channels[0].files)
                grid = header.shape, header.affine
            if grid is None:
                return _Seen(case.id, case.label, contents, {})
            codes, found = sets_of(read_parts(case.label, *grid, resample=True), grid[0])
            counts = np.bincount(codes.ravel(order="K"), minlength=len(found)).tolist()
            sets = {united: count for united, count in zip(found, counts, strict=True) if united and count}
    return _Seen(case.id, case.label, contents, sets)


def _in_one_spelling(seen: Sequence[_Seen]) -> list[_Seen]:
    """The same, each name as in the first file that has it.

    Raises DatasetError: two segments of a file differ in spelling only.
    """
    first: dict[str, str] = {}
    same = []
    for each in seen:
        if twice := one_spelling_twice(each.contents.values):
            both = " and ".join(map(named, twice))
            raise DatasetError(f"{each.path}: segments {both} differ only in spelling. Rename one of them.")
        names = {name: first.setdefault(spelling(name), name) for name in each.contents.values}
        contents = replace(each.contents, values={names[n]: v for n, v in each.contents.values.items()})
        sets = {frozenset(names[n] for n in united): count for united, count in each.sets.items()}
        same.append(replace(each, contents=contents, sets=sets))
    return same


def _values(seen: Sequence[_Seen]) -> dict[str, int]:
    """Segment -> value: as in the files if they agree, else counted from 1 in the order of the first file."""
    values: dict[str, set[int]] = {}
    for each in seen:
        for name, value in each.contents.values.items():
            values.setdefault(name, set()).add(value)
    if _agree(values):
        return dict(sorted(((name, min(found)) for name, found in values.items()), key=lambda pair: pair[1]))
    return {name: number for number, name in enumerate(values, 1)}


def _agree(values: Mapping[str, Iterable[int]]) -> bool:
    every = [value for found in values.values() for value in found]
    return len(every) == len(values) == len(set(every)) and max(every, default=0) < 2**15


def _with_plain(
    values: dict[str, int], seen: Sequence[_Seen], plain: Sequence[Case], progress: Progress | None
) -> dict[str, int]:
    """The values of segments and of label maps without names, which must agree."""
    first: dict[object, tuple[str, int, Path]] = {}
    for each in seen:
        for name, value in each.contents.values.items():
            for key in (name, value):
                other, number, path = first.setdefault(key, (name, value, each.path))
                if (other, number) != (name, value):
                    raise DatasetError(
                        f"{plain[0].label}: has values without names, and segmentations disagree: "
                        f"{named(other)} {number} ({path}) | {named(name)} {value} ({each.path}). "
                        "Name the labels (docs/datasets.md)."
                    )
    known = set(values.values())
    found = labels_in((case.label for case in plain), progress)
    return values | {name: value for name, value in found.items() if value and value not in known}


def _as_regions(labels: dict[str, int], seen: Sequence[_Seen]) -> Labels:
    """Segments that share voxels as regions, of which one contains the other or both are apart."""
    sets = {united: each for each in seen for united in each.sets}
    names = [name for name in labels if name != BACKGROUND]
    within = {
        name: [
            other
            for other in names
            if other != name and any(name in s for s in sets) and all(other in s for s in sets if name in s)
        ]
        for name in names
    }  # the segments that contain it in every case
    for united, each in sets.items():
        for name in sorted(united):
            if partial := [
                o for o in sorted(united) if o != name and o not in within[name] and name not in within[o]
            ]:
                raise DatasetError(
                    f"{each.path}: layers overlap: {each.sets[united]} voxels are in {named(name)} and "
                    f"{named(partial[0])}, of which neither contains the other. Separate "
                    "them, or define regions that share a label (docs/datasets.md)."
                )
            if twin := [other for other in within[name] if name in within[other]]:
                raise DatasetError(
                    f"{each.path}: {named(name)} and {named(twin[0])} are the same voxels in every case. "
                    "Unite them in the files, or list one of them in the labels of the recipe."
                )
    parts = {name: [other for other in names if name in within[other]] for name in names}
    regions = {name: tuple(labels[n] for n in (name, *parts[name])) for name in names}
    return {f"{n} alone" if parts.get(n) else n: value for n, value in labels.items()}, regions
