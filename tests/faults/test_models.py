"""Models and recipes that may be hostile: refused in one line with exit code 2, and nothing of them is run.

What would run writes a file CANARY; no test may find one. Rows and words are those of the list of faults.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mambamed.run.checkpoint import read_checkpoint, write_checkpoint
from mambamed.run.export import export_model
from tests.answers.stubs import stub_run
from tests.faults.fault_files import packed
from tests.faults.in_process import call


@pytest.fixture(autouse=True)
def no_canary(tmp_path, monkeypatch):
    """Work in an empty folder and look whether anything was run there, or written above it."""
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    yield
    assert not list(tmp_path.rglob("CANARY*"))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A model file as `export` writes it."""
    folder = tmp_path_factory.mktemp("healthy")
    run = stub_run(folder / "run", patch_size=(8, 8, 8))
    return export_model(run.root, folder / "model.mambamed").output


@pytest.fixture
def run(tmp_path):
    return stub_run(tmp_path / "run", patch_size=(8, 8, 8))


def predict(model, tmp_path):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "a.nii.gz").write_bytes(packed())
    options = ("--device", "cpu", "--precision", "fp32", "--tta", "none", "--overlap", "0", "-q")
    return call("predict", model, tmp_path / "images", "-o", tmp_path / "out", *options)


def imported(file, tmp_path):
    return call("import-weights", file, "--recipe", "hippocampus_nnmamba", "-o", tmp_path / "o", "-q")


def refused(answer, *words: str) -> str:
    """The one line of a usage fault; nothing was written."""
    assert answer.code == 2 and len(answer.lines) == 1, answer
    return answer.line_with(*words)


class Runs:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return (open, ("CANARY", "w"))


def as_pickle() -> bytes:
    return pickle.dumps({"state_dict": {"w": Runs()}})


def as_torch_zip() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(2)}, "optimizer": Runs()}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("data", [as_pickle(), as_torch_zip(), b"only text\n" * 50, b""])
def test_a_file_that_would_run_code_or_is_none_is_refused_as_model_checkpoint_and_weights(
    run, tmp_path, data
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(data)
    refused(predict(file, tmp_path), "model.pt")
    refused(imported(file, tmp_path), "model.pt")
    run.checkpoint(0).write_bytes(data)
    refused(predict(run.root, tmp_path), "checkpoint_best.safetensors")
    assert not (tmp_path / "out").exists()


def test_numbers_that_would_be_unpickled_are_refused(tmp_path) -> None:
    """Ours are read by `np.load(allow_pickle=False)`; as weights an .npz is nothing that is known."""
    np.savez(tmp_path / "stats.npz", mean=np.array([Runs()], object))
    refused(predict(tmp_path / "stats.npz", tmp_path), "stats.npz")
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "stats.npz", allow_pickle=False)["mean"]


COMPLETE = (
    "training: {patch_size: [16, 16, 16]}\ndataset: {channels: {a: mri}, labels: {background: 0, b: 1}}\n"
)
HOSTILE = {
    "tag": ("network: !!python/object/apply:os.system ['touch CANARY']", "tag"),
    "new": ("network: !!python/object/new:open [CANARY, w]", "tag"),
    "name": ("network: {name: os.system, command: touch CANARY}", "os.system"),
    "target": ("network: {name: nnmamba, _target_: os.system}", "_target_"),
    "module": ("network: {name: 'os:system'}", "os:system"),
    "anchors": ("a: &a [1]\nnetwork: {name: nnmamba, x: *a}", "anchors"),
    "parent": ("extends: ../../secret.yaml\nnetwork: {name: nnmamba}", "extends"),
    "elsewhere": ("extends: /etc/passwd\nnetwork: {name: nnmamba}", "extends"),
    "expression": (
        "network: {name: nnmamba, channels: \"$__import__('os').system('touch CANARY')\"}",
        "network.channels",
    ),
    "bomb": ("network: " + "[" * 3000, "nested"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_runs_nothing_and_reads_no_other_file(run, tmp_path, name) -> None:
    text, word = HOSTILE[name]
    file = tmp_path / "config.yaml"
    file.write_text(f"{text}\n{COMPLETE}")
    refused(call("recipes", "check", file, "-q"), word)
    (run.root / "recipe.yaml").write_text(text + "\n")
    refused(predict(run.root, tmp_path), word)


def changed(model, target, extra=(), compression=zipfile.ZIP_STORED):
    """The model file with other members beside its own."""
    with zipfile.ZipFile(model) as source, zipfile.ZipFile(target, "w", compression) as out:
        for info in source.infolist():
            out.writestr(info.filename, source.read(info))
        for info, data in extra:
            out.writestr(info, data)
    return target


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("fold_0/link")
    info.external_attr = 0o120777 << 16
    return info


MEMBERS = {
    "slip": ([("../../CANARY_mod_zip_slip", b"x")], "../../CANARY_mod_zip_slip"),
    "absolute": ([("/CANARY", b"x")], "/CANARY"),
    "link": ([(link(), b"/etc"), ("fold_0/link/CANARY", b"x")], "link"),
    "linked_part": ([("fold_1/thresholds.json/CANARY", b"x")], "thresholds.json/CANARY"),
    "twin": ([("Plan.json", b"{}")], "Plan.json"),
    "script": ([("__init__.py", b"open('CANARY','w')")], "__init__.py"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_model_file_with_a_foreign_member_is_refused_whole(healthy, tmp_path, name) -> None:
    extra, word = MEMBERS[name]
    answer = predict(changed(healthy, tmp_path / "model.zip", extra), tmp_path)
    assert word in refused(answer, "model.zip")


def test_a_link_under_the_name_of_a_part_is_refused(healthy, tmp_path) -> None:
    with zipfile.ZipFile(healthy) as source, zipfile.ZipFile(tmp_path / "model.zip", "w") as out:
        for info in source.infolist():
            info.external_attr = (0o120777 << 16) if info.filename == "card.md" else 0
            out.writestr(info, source.read(info))
    assert "is a link" in refused(predict(tmp_path / "model.zip", tmp_path), "card.md")


def test_bombs_and_half_downloads_are_refused_before_anything_is_unpacked(healthy, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("plan.json", bytes(2**26))
    assert "compressed" in refused(predict(tmp_path / "model.zip", tmp_path), "model.zip")
    data = bytearray(healthy.read_bytes())
    at = data.rindex(b"PK\1\2")  # the last entry of the list of members: its sizes
    data[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "model.zip").write_bytes(data)
    assert "claims" in refused(predict(tmp_path / "model.zip", tmp_path), "model.zip")
    (tmp_path / "model.zip").write_bytes(healthy.read_bytes()[:-2000])
    assert "not a complete model file" in refused(predict(tmp_path / "model.zip", tmp_path), "model.zip")


def test_an_encrypted_member_is_refused(healthy, tmp_path) -> None:
    data = bytearray(healthy.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of each member and in their list: its flags
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + flags] |= 1
    (tmp_path / "model.zip").write_bytes(data)
    assert "encrypted" in refused(predict(tmp_path / "model.zip", tmp_path), "model.zip")


def header(document: object, length: int | None = None) -> bytes:
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


BEYOND = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}


@pytest.mark.parametrize("data", [header({}, 2**32), header(BEYOND) + bytes(64), header({})])
def test_tensors_that_their_file_cannot_hold_are_refused(run, tmp_path, data) -> None:
    run.checkpoint(0).write_bytes(data)
    refused(predict(run.root, tmp_path), "checkpoint_best.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    refused(imported(file, tmp_path), file.name)


def test_a_checkpoint_that_was_cut_is_refused(run, tmp_path) -> None:
    whole = run.checkpoint(0).read_bytes()
    run.checkpoint(0).write_bytes(whole[: len(whole) // 2])
    refused(predict(run.root, tmp_path), "checkpoint_best.safetensors", "not a complete safetensors file")


def test_weights_of_another_network_are_named_by_their_first_keys(run, tmp_path) -> None:
    write_checkpoint(run.checkpoint(0), {"network.other": torch.ones(3)}, {"step": 1})
    refused(predict(run.root, tmp_path), "another network than NnMamba", "and", "more")
    own = dict(read_checkpoint(stub_run(tmp_path / "two").checkpoint(0)).tensors)
    write_checkpoint(run.checkpoint(0), own | {"network.other": torch.ones(3)}, {"step": 1})
    refused(predict(run.root, tmp_path), "unknown other")


def test_weights_that_are_nan_are_refused_instead_of_answering_nothing(run, tmp_path) -> None:
    own = dict(read_checkpoint(run.checkpoint(0)).tensors)
    name = next(name for name, tensor in own.items() if tensor.is_floating_point())
    write_checkpoint(run.checkpoint(0), own | {name: own[name] * float("nan")}, {"step": 1})
    refused(predict(run.root, tmp_path), "NaN")


def test_a_newer_format_is_named(run, tmp_path) -> None:
    data = save({"network.w": torch.ones(1)}, {"mambamed": json.dumps({"format": 999})})
    run.checkpoint(0).write_bytes(data)
    refused(predict(run.root, tmp_path), "format: expected at most 1, got 999", "newer")


def test_a_size_that_no_network_has_names_the_recipe_of_the_run(run, tmp_path) -> None:
    text = (run.root / "recipe.yaml").read_text()
    (run.root / "recipe.yaml").write_text(text.replace("channels: 4", "channels: 1000000000"))
    line = refused(predict(run.root, tmp_path), "network.channels: expected 1 to")
    assert f"{run.root / 'recipe.yaml'}:" in line


@pytest.mark.parametrize("channels", [1_000_000, 200_000])
def test_a_recipe_that_asks_for_a_network_beyond_all_memory_is_refused_by_its_weights(
    run, tmp_path, channels
) -> None:
    text = (run.root / "recipe.yaml").read_text()
    (run.root / "recipe.yaml").write_text(text.replace("channels: 4", f"channels: {channels}"))
    refused(predict(run.root, tmp_path), "checkpoint_best.safetensors", "another network")
