"""Files on disk -> cases: one file a dataset family, found through `CONVERTERS`.

A converter is a module with two functions:

    recognizes(source: Path) -> bool          whether the folder is laid out in its way
    convert(source: Path) -> RawDataset       manifest and cases; no voxel is read

`inputs.find_inputs` finds the images of a prediction, which have no labels and need no layout.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from mambamed.cases import Case, RawDataset
from mambamed.converters.inputs import find_inputs
from mambamed.errors import DatasetError

# In the order in which "auto" asks them.
CONVERTERS = {
    "msd": "mambamed.converters.msd",
    "nnunet": "mambamed.converters.nnunet",
    "brats": "mambamed.converters.brats",
}

__all__ = ["CONVERTERS", "convert", "find_inputs"]


def convert(source: Path, format: str = "auto") -> RawDataset:
    """Find the cases of a downloaded dataset.

    Args:
        source: its folder.
        format: a key of `CONVERTERS`; "auto" takes the first that recognizes the folder.

    Raises:
        DatasetError: no such folder or format, a layout that none recognizes, or a dataset without cases.
        CaseError: never; faults of single cases are found when they are verified.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; give the folder of a dataset")
    if format not in {"auto", *CONVERTERS}:
        raise DatasetError(f"--format {format}: choose auto or one of {', '.join(CONVERTERS)}")
    names = list(CONVERTERS) if format == "auto" else [format]
    for name in names:
        module = _module(name)
        if format != "auto" or module.recognizes(source):
            dataset: RawDataset = module.convert(source)
            _check(dataset.cases, source)
            return dataset
    raise DatasetError(
        f"{source}: no images in a layout that is known ({', '.join(CONVERTERS)}); see docs/datasets.md, "
        "or insist with --format"
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(CONVERTERS[name])


def _check(cases: object, source: Path) -> None:
    assert isinstance(cases, (list, tuple))
    if not cases:
        raise DatasetError(f"{source}: no images of a case found; check the folder")
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            first, second = seen[case.id].channels[0].path.name, case.channels[0].path.name
            raise DatasetError(f"{source}: duplicate case {case.id}: {first} and {second}; keep one")
        seen[case.id] = case
