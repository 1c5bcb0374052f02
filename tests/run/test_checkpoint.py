"""Checkpoints: what is written comes back; what is damaged or foreign is refused with one line."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mambamed.errors import ModelError
from mambamed.run.checkpoint import load_weights, read_checkpoint, write_checkpoint


class Shared(nn.Module):
    """One layer under two names, as nnMamba shares a Mamba layer between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a
        self.norm = nn.BatchNorm1d(3)


def test_tensors_and_facts_come_back(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {"network.w": torch.randn(3, 4).bfloat16(), "network.n": torch.tensor(7)}
    write_checkpoint(path, tensors, {"step": 5, "score": float("nan"), "imported_from": "é"})
    back = read_checkpoint(path)
    assert all(torch.equal(back.tensors[n], t) for n, t in tensors.items())
    assert back.facts["step"] == 5 and back.facts["imported_from"] == "é"
    assert back.facts["score"] != back.facts["score"]


def test_only_the_parts_that_are_asked_for_are_read(tmp_path):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"network.w": torch.ones(1), "optimizer.m.w": torch.ones(1)}, {})
    assert set(read_checkpoint(path, parts=("network",)).tensors) == {"network.w"}
    assert set(read_checkpoint(path).part("optimizer")) == {"m.w"}


def test_a_layer_used_twice_is_written_once_and_loads_into_both_kinds(tmp_path):
    network = Shared()
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {f"network.{n}": t for n, t in network.state_dict().items()}, {})
    weights = read_checkpoint(path).part("network")
    assert "a.weight" in weights and "b.weight" not in weights
    other = Shared()
    load_weights(other, weights, path)
    assert torch.equal(other.b.weight, network.a.weight)
    load_weights(other, network.state_dict(), path)
    apart = Shared()
    apart.b = nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"no b\.weight, no b\.bias"):
        load_weights(apart, weights, path)


def test_channels_last_weights_keep_their_layout_and_value(tmp_path):
    network = nn.Conv3d(2, 4, 3).to(memory_format=torch.channels_last_3d)
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {f"network.{n}": t for n, t in network.state_dict().items()}, {})
    other = nn.Conv3d(2, 4, 3).to(memory_format=torch.channels_last_3d)
    load_weights(other, read_checkpoint(path).part("network"), path)
    assert torch.equal(other.weight, network.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_weights_of_another_network_are_named(tmp_path):
    with pytest.raises(
        ModelError, match=r"another network than Linear: no bias, unknown b, weight is \(2, 2\)"
    ):
        load_weights(nn.Linear(3, 1), {"weight": torch.ones(2, 2), "b": torch.ones(1)}, "other")


def test_weights_that_are_not_finite_are_refused():
    weights = {"weight": torch.full((1, 3), float("nan")), "bias": torch.ones(1)}
    with pytest.raises(ModelError, match="NaN"):
        load_weights(nn.Linear(3, 1), weights, "model.safetensors")


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


DAMAGED = {
    "empty": b"",
    "text": b"this is not a model at all, only text",
    "html": b"<html><body>404</body></html>",
    "pickle": pickle.dumps({"a": 1}),
    "huge header": header(b"{}", 2**40),
    "offsets beyond the end": header(
        json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    ),
    "no metadata": header(b"{}"),
    "nested": header(b'{"__metadata__":{"mambamed":"' + b"[" * 100_000 + b'"}}'),
}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_damaged_or_foreign_file_is_refused_with_its_name(tmp_path, kind):
    path = tmp_path / "checkpoint_best.safetensors"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(ModelError, match=r"checkpoint_best\.safetensors"):
        read_checkpoint(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"network.w": torch.ones(100)}, {"step": 1})
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_checkpoint(path)


def test_a_checkpoint_of_a_newer_mambamed_is_refused_with_its_format(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"network.w": torch.ones(1)}, path, {"mambamed": json.dumps({"format": 999})})
    with pytest.raises(ModelError, match="format: expected at most 1, got 999"):
        read_checkpoint(path)


def test_an_absent_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "nothing")
