"""safetensors: what its authors' package writes comes back, and a header that lies is refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save

from mambamed.errors import ModelError
from mambamed.run.tensors import read_tensors

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
TYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def test_every_type_and_shape_comes_back(tmp_path) -> None:
    torch.manual_seed(0)
    tensors = {str(kind): torch.randint(0, 9, (2, 3)).to(kind) for kind in TYPES}
    tensors |= {
        "bool": torch.tensor([True, False, True]),
        "one": torch.tensor(7.5),
        "none": torch.zeros(0, 3),
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors, {"by": "é"}))
    metadata, found = read_tensors(path)
    assert metadata == {"by": "é"} and set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)) if tensor.ndim else True
    assert found["one"] == 7.5
    assert set(read_tensors(path, lambda name: name == "one")[1]) == {"one"}


def entry(first, last, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("table", "held", "fact"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12, "b: expected 8 bytes from 8 on"),
        ({"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, 20, "b: expected 8 bytes from 8 on"),
        ({"a": entry(0, 8, [3])}, 8, "a: expected 12 bytes from 0 on, got those from 0 to 8"),
        ({"a": entry(8, 0, [2])}, 8, "a: expected 8 bytes from 0 on"),
        ({"a": entry(0, 2**42, [2**40])}, 8, "the tensors need 4398046511104 bytes, it has 8"),
        ({"a": entry(0, 0, [0, 2**62, 2**62])}, 0, "a: expected 0 bytes"),
        ({"a": entry(0, 8, [2])}, 9, "the tensors need 8 bytes, it has 9"),
        ({"a": entry(0, 8, [-2])}, 8, r"tensors\.a\.shape\.0: expected greater than or equal to 0, got -2"),
        ({"a": entry(0, 8, [2], "C128")}, 8, r"tensors\.a\.dtype: expected 'F64'"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, r"tensors\.a\.dtype: missing"),
        ({"__metadata__": {"a": 1}}, 0, r"metadata\.a: expected a valid string"),
        ([], 0, "content: expected an object"),
    ],
)
def test_a_header_that_does_not_agree_with_the_file_is_refused(tmp_path, table, held, fact) -> None:
    text = json.dumps(table).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(held))
    with pytest.raises(ModelError, match=rf"a\.safetensors: .*{fact}.* Copy") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**40, 3])
def test_the_length_of_the_header_is_compared_with_the_file(tmp_path, length) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        read_tensors(path)
