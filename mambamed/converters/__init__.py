"""Convert datasets on disk to cases: one file per family of datasets, found through `CONVERTERS`.

A converter is a module with two functions:

    recognizes(source: Path) -> bool                       whether the source has this layout
    convert(source: Path, options: ConvertOptions) -> RawDataset    manifest and cases; voxels are not read

If a file of a case is missing, its `fault` says so: the case is reported and left out.

`inputs.find_inputs` finds the images to predict, which need no labels and no special layout.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mambamed.converters.options import ConvertOptions
from mambamed.errors import DatasetError

if TYPE_CHECKING:  # `--help` reads CONVERTERS and must not import the readers
    from mambamed.cases import Case
    from mambamed.documents.manifest import RawDataset
    from mambamed.progress import Progress

# Choices of `prepare --format`, in the order in which "auto" tries them.
CONVERTERS = {
    "landmarks": "mambamed.converters.landmark_set",
    "amos": "mambamed.converters.amos",
    "amos-ct": "mambamed.converters.amos",
    "amos-mr": "mambamed.converters.amos",
    "nnunet": "mambamed.converters.nnunet",
    "msd": "mambamed.converters.msd",
    "brats": "mambamed.converters.brats",
    "brats-ped2024": "mambamed.converters.brats",
    "brats-men-rt": "mambamed.converters.brats",
    "acdc": "mambamed.converters.acdc",
    "synapse": "mambamed.converters.synapse",
    "bids": "mambamed.converters.bids",
    "csv": "mambamed.converters.case_list",
    "json": "mambamed.converters.case_list",
    "slicer": "mambamed.converters.slicer",
    "dicom": "mambamed.converters.dicom",
}

__all__ = ["CONVERTERS", "ConvertOptions", "convert"]


def convert(
    source: Path,
    format: str = "auto",
    *,
    channels: Mapping[str, str] | None = None,
    labels: Mapping[str, int] | None = None,
    class_column: str | None = None,
    progress: Progress | None = None,
) -> RawDataset:
    """Find the cases of a downloaded dataset. A case that cannot be used has a `fault`.

    Args:
        source: folder of the dataset, or a list of cases (.csv, .tsv, .json).
        format: a key of `CONVERTERS`; "auto" uses the first that recognizes the source.
        channels, labels, class_column, progress: see `ConvertOptions`.

    Raises DatasetError: unknown source, format or layout, no cases, or nothing to learn.
    """
    if not source.exists():
        raise DatasetError(f"{source}: no such folder. Give the folder of a dataset, or a list of cases.")
    if format not in {"auto", *CONVERTERS}:
        raise DatasetError(f"--format: expected auto, {', '.join(CONVERTERS)}, got {format!r}. Choose one.")
    options = ConvertOptions(format, channels, labels, class_column, progress)
    names = CONVERTERS if format == "auto" else [format]
    for target in dict.fromkeys(CONVERTERS[name] for name in names):
        module = importlib.import_module(target)
        if format != "auto" or module.recognizes(source):
            from mambamed.converters.accounting import account_of, files_of
            from mambamed.converters.segmented import with_segments

            dataset: RawDataset = module.convert(source, options)
            _check(dataset, source)
            account = account_of(source, [*files_of(dataset.cases), *dataset.documents])
            return with_segments(replace(dataset, source=source, account=account))
    if (source.parent / "dataset.json").is_file():
        raise DatasetError(f"{source}: is a folder of the dataset {source.parent}. Give that folder.")
    raise DatasetError(
        f"{source}: no images in a known layout ({', '.join(CONVERTERS)}). See docs/datasets.md, or choose "
        "a layout with --format."
    )


def _check(dataset: RawDataset, source: Path) -> None:
    from mambamed.cases import TWO_OF_ONE_ID
    from mambamed.schema_errors import named

    if not dataset.cases:
        raise DatasetError(f"{source}: no images found. Check the folder.")
    seen: dict[str, Case] = {}
    for case in dataset.cases:
        if case.id in seen:
            both = (seen[case.id], case)
            first, second = (c.channels[0].path.name if c.channels else "one without images" for c in both)
            raise DatasetError(f"{source}: duplicate case {case.id}: {first} and {second}. {TWO_OF_ONE_ID}")
        seen[case.id] = case
    manifest, count = dataset.manifest, len(dataset.cases)
    if manifest.labels or manifest.landmarks or manifest.classes:
        return
    faults = [case.fault for case in dataset.cases if case.fault]
    if len(faults) == count:
        more = f" (and {count - 1} more cases)" if count > 1 else ""
        where = "" if str(source) in faults[0] else f"{source}: "
        raise DatasetError(f"{where}{faults[0]}{more}")
    columns = list(dict.fromkeys(name for case in dataset.cases for name in case.covariates))
    shown = ", ".join(map(named, columns[:5]))
    raise DatasetError(
        f"{source}: {count} case{'s' * (count > 1)}, but no label, landmark or class to learn from. "
        + (f"Name the column of the class with --class-column ({shown}). " if columns else "")
        + "Add them in a list of cases (docs/datasets.md), or use these images for prediction."
    )
