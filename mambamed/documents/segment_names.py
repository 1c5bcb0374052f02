"""What the named segments of the cases' segmentations are in a label map; spelling does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from mambamed.cases import Case, SegmentNames
from mambamed.documents.agreement import spelled_alike
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import CaseError
from mambamed.io.segments import is_segmentation, read_contents


def segment_names(
    path: Path, labels: Mapping[str, int], regions: Mapping[str, tuple[int, ...]]
) -> SegmentNames:
    """The labels and regions of a dataset, also as they are spelled in a segmentation."""
    try:
        names = list(read_contents(path).values)
    except CaseError:  # reading the segments reports that
        names = []
    return SegmentNames(labels, regions, spelled_alike(names, [*labels, *regions]))


def with_segment_names(cases: Iterable[Case], manifest: DatasetManifest) -> list[Case]:
    """The cases; those whose label is a segmentation know what its names are."""
    return [
        replace(case, segment_names=segment_names(case.label, manifest.labels, manifest.regions))
        if case.label and is_segmentation(case.label)
        else case
        for case in cases
    ]
