"""Every value of every document of another program is dropped or replaced, and then converted.

The result is a dataset, or an error that names the file; never another exception.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mambamed.converters import convert
from mambamed.converters.point_sets import read_point_set
from mambamed.errors import MambamedError
from tests.converters.small_images import write_small

DROPPED = object()
OTHERS = [None, True, 3, -1, 1.5, 2**70, math.nan, math.inf, "", "x", "a\0b", "\ud800", [], [1], {}, {"a": 1}]
PLACES = {"nose": [1.0, 2.0, 3.0], "chin": {"coordinates": [1, 2, 3]}, "ear": None}
MARKUPS = {
    "markups": [
        {
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "controlPoints": [{"label": "nose", "position": [1.0, 2.0, 3.0], "positionStatus": "defined"}],
        }
    ]
}
MSD = {
    "name": "Task",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "liver"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}
NNUNET = {
    "name": "set",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    "dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}},
}
CASES = {
    "name": "list",
    "channels": {"T1w": "mri"},
    "labels": {"background": 0, "lesion": 1},
    "regions": {"both": [1]},
    "landmarks": ["nose"],
    "classes": ["x", "y"],
    "cases": [
        {"case": "a", "subject": "s", "channels": {"T1w": "a.nii.gz"}, "label": "labelsTr/a.nii.gz"},
        {"case": "b", "T1w": "a.nii.gz", "class": "x", "points": PLACES, "covariates": {"age": 3}},
    ],
}
VOXELS = {"a": PLACES}
# Document, its file, the format that is asked for, and whether the folder or the file itself is converted.
SAMPLES: dict[str, tuple[Any, str, str]] = {
    "msd": (MSD, "dataset.json", "msd"),
    "nnunet": (NNUNET, "dataset.json", "nnunet"),
    "nnunet in folders": ({k: v for k, v in NNUNET.items() if k != "dataset"}, "dataset.json", "nnunet"),
    "amos": (MSD, "dataset.json", "amos-ct"),
    "cases": (CASES, "cases.json", "json"),
    "beside a table": ({k: v for k, v in CASES.items() if k != "cases"}, "table.json", "csv"),
    "nnlandmark": (VOXELS, "all_landmarks_voxel.json", "landmarks"),
    "order": ({"nose": 1, "chin": 2}, "name_to_label.json", "landmarks"),
    "channels": ({"channel_names": {"0": "CT"}}, "dataset.json", "landmarks"),
    "slicer": (MARKUPS, "landmarks/a.mrk.json", "landmarks"),
    "voxels": (PLACES, "landmarks/a.json", "landmarks"),
    "world": ({"coordinate_system": "RAS", "points": PLACES}, "landmarks/a.json", "landmarks"),
}


def positions(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    parts = content if isinstance(content, (dict, list)) else ()
    for key, value in parts.items() if isinstance(parts, dict) else enumerate(parts):
        yield from positions(value, (*at, key))


def replaced(content: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    changed = copy.deepcopy(content)
    parent = changed
    for key in at[:-1]:
        parent = parent[key]
    if value is DROPPED:
        del parent[at[-1]]
    else:
        parent[at[-1]] = value
    return changed


def mutants(content: Any) -> Iterator[tuple[str, Any]]:
    for at in positions(content):
        for value in (*([DROPPED] if at else []), *OTHERS):
            shown = "dropped" if value is DROPPED else ascii(value)
            yield f"{'.'.join(map(str, at))}: {shown}", replaced(content, at, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("set")
    make_dataset(root)
    return root


def make_dataset(root: Path) -> None:
    """Images, label maps and a table that any of the samples may belong to."""
    for name in ("a", "images/a", "imagesTr/a", "imagesTr/a_0000", "imagesTr/amos_0001"):
        write_small(root / f"{name}.nii.gz")
    for name in ("a", "amos_0001"):
        write_small(root / "labelsTr" / f"{name}.nii.gz", value=1)
    (root / "landmarks").mkdir()
    (root / "table.csv").write_text("case,T1w,class\na,a.nii.gz,x\n")


def attempts(file: Path, source: Path, content: Any, read: Callable[[], object]) -> Iterator[str]:
    """The mutants at which something is raised that does not name the file."""
    for name, mutant in mutants(content):
        file.write_text(json.dumps(mutant))
        try:
            read()
        except MambamedError as error:
            # A dataset in which nothing is left to learn from goes by its folder.
            if not any(named in str(error) for named in (str(file), f"{source}:", f"{source}. ")):
                yield f"{name}: does not name its file: {error}"
        except Exception as error:
            yield f"{name}: {type(error).__name__}: {error}"


@pytest.mark.parametrize("name", SAMPLES)
def test_a_document_with_any_value_is_a_dataset_or_a_line(folder, name) -> None:
    content, file_name, format = SAMPLES[name]
    file = folder / file_name
    source = {"json": file, "csv": folder / "table.csv"}.get(format, folder)
    file.write_text(json.dumps(content))
    points = folder / "points.csv"
    if name in {"order", "channels"}:
        points.write_text("case,landmark,x,y,z\na,nose,1,2,3\n")
    try:
        assert not [case.fault for case in convert(source, format).cases if case.fault and case.id == "a"]
        assert list(attempts(file, source, content, lambda: convert(source, format))) == []
    finally:
        file.unlink()
        points.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["slicer", "voxels", "world"])
def test_a_point_file_with_any_value_is_points_or_a_line(tmp_path, name) -> None:
    content, file_name, _ = SAMPLES[name]
    file = tmp_path / Path(file_name).name

    def read() -> None:
        found = read_point_set(file, lambda case: np.eye(4))
        placed = [point for point in found.points["a"].values() if point]
        assert all(math.isfinite(value) for point in placed for value in point)

    assert list(attempts(file, file, content, read)) == []


@pytest.mark.parametrize(
    "text", ["", "ED", "ED: ", "ED: -1", "ED: ²", "ED: 1e3", "ED: nan", "ED: " + "9" * 5000]
)
def test_an_info_file_of_acdc_with_any_value_is_a_fault_of_its_phase(tmp_path, text) -> None:
    patient = tmp_path / "patient001"
    write_small(patient / "patient001_frame12.nii.gz")
    write_small(patient / "patient001_frame12_gt.nii.gz", value=1)
    (patient / "Info.cfg").write_text(f"{text}\nES: 12\n")
    lost, good = convert(tmp_path, "acdc").cases
    assert str(patient / "Info.cfg") + ": ED: " in (lost.fault or "")
    assert good.fault is None
