"""The images of a part of a prepared dataset."""

from __future__ import annotations

import pytest

from mambamed.converters.prepared import cases_of_part
from mambamed.errors import DatasetError, RecipeError
from mambamed.io.json_files import read_json, write_json
from tests.documents.test_parts import dataset


def test_the_images_are_those_that_prepare_read(tmp_path) -> None:
    root = dataset(tmp_path, {"train": ["a"], "val": [], "test": ["c", "d"]})
    (root / "plan.json").touch()
    with pytest.raises(DatasetError, match=r"does not say where the images of c are\. Run the same"):
        cases_of_part(root, "test", [], ["a"])
    index = read_json(root / "dataset.json")
    for case in index["cases"]:
        case |= {"covariates": {"age": "7"}}
    index["images"] = {i: [{"path": str(root / i), "volume": 3}] for i in "abcd"}
    write_json(root / "dataset.json", index)
    (root / "c").touch()
    here, gone = cases_of_part(root, "test", [0], ["a"])
    assert here.channels[0].path == root / "c" and here.channels[0].volume == 3 and here.fault is None
    assert here.covariates == {"age": "7"} and f"{root / 'd'}: no such file" in str(gone.fault)
    with pytest.raises(RecipeError, match="has the channels a, the model b"):
        cases_of_part(root, "test", [], ["b"])
    with pytest.raises(RecipeError, match="is not a prepared dataset"):
        cases_of_part(root / "c", "test", [], ["a"])
