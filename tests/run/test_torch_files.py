"""Files of torch.save: what it writes comes back, and a file that lies is refused before memory is taken."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from mambamed.errors import ModelError
from mambamed.run.torch_files import open_torch_file, read_torch_file


def saved(path, content):
    torch.save(content, path)
    return path


def state_dict():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.BatchNorm3d(4), torch.nn.Linear(3, 2))
    base = torch.arange(24.0).reshape(4, 6)
    kinds = {str(kind): torch.ones(3).to(kind) for kind in (torch.bfloat16, torch.half, torch.double)}
    more = {"turned": base.t()[1:3], "base": base, "one": torch.tensor(7), "none": torch.zeros(0, 3)}
    more |= {"parameter": torch.nn.Parameter(torch.ones(2)), "bool": torch.tensor([True, False])}
    return OrderedDict({**network.state_dict(), **kinds, **more})


def checkpoint():
    """As nnU-Net's trainer keeps it, and what others add."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "network_weights": state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.1)], "array": np.ones(3)},
        "init_args": {"plans": {"x": [1, 2, (3, 4)], "y": None, "z": True, "long": 2**40}},
        "others": [torch.device("cpu"), torch.float32, torch.Size([1, 2]), {1, 2}, 1 + 2j, b"bytes"],
    }


@pytest.mark.parametrize("content", [state_dict(), checkpoint()])
def test_what_torch_saves_comes_back(tmp_path, content) -> None:
    found = read_torch_file(saved(tmp_path / "w.pth", content))
    wanted = content.get("network_weights", content)
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
        assert found[name].stride() == tensor.stride()


def test_what_is_no_tensor_comes_back_as_plain_data(tmp_path) -> None:
    numbers = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.uint8(7), np.bool_(True), np.float16(2)]
    content = {
        "args": {
            "plans": {"x": [1, (2.5, None)], 3: "é"},
            "numbers": numbers,
        },
        "weights": {"w": torch.ones(2)},
        "device": torch.device("cpu"),
        "array": {"a": np.ones(3)},
    }
    file = open_torch_file(saved(tmp_path / "w.pth", content))
    assert file.value("args", "plans") == {"x": [1, [2.5, None]], "3": "é"}
    found = file.value("args", "numbers")
    assert found == [0.1, 0.5, -3, 7, True, 2.0] and [type(n) for n in found][2:5] == [int, int, bool]
    assert file.value("args", "none") is None and file.value("none", "below") is None
    for key, kind in (("weights", "weights.w: .* got a tensor"), ("device", "device: .* got torch.device")):
        with pytest.raises(ModelError, match=f"w.pth: {kind}"):
            file.value(key)
    with pytest.raises(ModelError, match=r"array\.a: expected text, numbers, .* got numpy"):
        file.value("array")


def test_data_that_name_a_list_many_times_are_refused(tmp_path) -> None:
    """A pickle of a few bytes that would unfold to 2^40 values, and one that holds itself."""
    many: list = [1]
    for _ in range(40):
        many = [many, many]
    endless: list = []
    endless.append(endless)
    file = open_torch_file(saved(tmp_path / "w.pth", {"many": many, "endless": endless}))
    with pytest.raises(ModelError, match=r"many.*: expected at most 1000000 values"):
        file.value("many")
    with pytest.raises(ModelError, match="endless: nested too deeply"):
        file.value("endless")


def rewritten(path, change=lambda name, data: data, compression=zipfile.ZIP_STORED, extra=()):
    with zipfile.ZipFile(path) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in [*members.items(), *extra]:
            out.writestr(name, change(name, data))
    return path


def refusal(path) -> str:
    """The one line; it gives no advice of torch's, and next to no memory is taken."""
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        read_torch_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = str(caught.value)
    assert peak < 5 * 2**20 and "\n" not in line
    assert "weights_only" not in line and "safe_globals" not in line and "trust" not in line
    return line


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path) -> None:
    """F6: of 2 MB, 2.1 GB were taken; here 60 kB and 64 MB."""
    path = rewritten(saved(tmp_path / "w.pth", {"w": torch.zeros(2**24)}), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    assert refusal(path).endswith(
        "is compressed or encrypted. Ask for a safetensors file, or for the file as torch.save wrote it."
    )


def pickled_as(path, find: bytes, replace: bytes):
    """The file with some bytes of its pickle changed."""

    def change(name, data):
        assert not name.endswith("data.pkl") or find in data
        return data.replace(find, replace) if name.endswith("data.pkl") else data

    return rewritten(path, change)


NUMBER = b"M\x01\x02"  # 513 in a pickle
LARGE = b"\x8a\x05\x00\x00\x00\x00\x01"  # 2**32


def test_a_shape_is_compared_with_the_storage_and_the_storage_with_the_file(tmp_path) -> None:
    for number in range(2):  # 513 numbers: of the storage, and of the shape
        path = saved(tmp_path / f"{number}.pth", {"w": torch.ones(513)})
        with zipfile.ZipFile(path) as source:
            data = next(source.read(name) for name in source.namelist() if name.endswith("data.pkl"))
        places = [at for at in range(len(data)) if data.startswith(NUMBER, at)]
        at = places[number]
        new = data[:at] + LARGE + data[at + 3 :]
        rewritten(path, lambda name, old, new=new: new if name.endswith("data.pkl") else old)
        assert "'w': " in refusal(path)
    both = pickled_as(saved(tmp_path / "both.pth", {"w": torch.ones(513)}), NUMBER, LARGE)
    assert "'w': its storage of 17179869184 bytes is not in the file" in refusal(both)


def test_a_tensor_that_repeats_its_numbers_is_refused(tmp_path) -> None:
    torch.save({"w": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "w.pth")
    assert "needs more than its storage of 1 numbers" in refusal(tmp_path / "w.pth")


class Made:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "value",
    [
        Made(print, "x"),
        Made(exec, "raise SystemExit"),
        Made(eval, "1"),
        Made(getattr, "a", "b"),
        Made(pickle.loads, b"N."),
        Made(zipfile.ZipFile, "x"),
    ],
)
@pytest.mark.parametrize("as_weight", [True, False])
def test_what_is_no_data_is_named_and_not_called(tmp_path, value, as_weight) -> None:
    content = {"w": value} if as_weight else {"state_dict": {"w": torch.ones(1)}, "other": value}
    line = refusal(saved(tmp_path / "w.pth", content))
    assert "contains more than tensors and numbers, and reading it could run code" in line


@pytest.mark.parametrize(
    "value", [Made(bytearray, 2**34), Made(torch.Tensor, 2**32), Made(torch.UntypedStorage, 2**34)]
)
def test_a_call_that_would_take_memory_is_not_made(tmp_path, value) -> None:
    """torch.load(weights_only=True) makes these calls."""
    assert "contains no tensor" in refusal(saved(tmp_path / "w.pth", {"w": value}))


def test_a_name_with_a_backslash_is_refused_without_a_warning(tmp_path) -> None:
    path = pickled_as(saved(tmp_path / "w.pth", {"w": torch.ones(3)}), b"FloatStorage", b"Float\\Storage")
    assert "does not describe tensors" in refusal(path)


def test_files_before_torch_1_6_are_refused(tmp_path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "nor a zip of torch.save" in refusal(tmp_path / "old.pth")


def test_a_flipped_number_is_found_by_its_checksum(tmp_path) -> None:
    path = saved(tmp_path / "w.pth", {"w": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(data)
    assert "data/0: corrupt: its checksum differs" in refusal(path)


def test_any_change_of_the_pickle_is_read_or_refused_in_a_line(tmp_path) -> None:
    whole = saved(tmp_path / "whole.pth", checkpoint()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    random = np.random.default_rng(0)
    path = tmp_path / "w.pth"
    for _ in range(300):
        data = bytearray(members[name])
        for at in random.integers(len(data), size=random.integers(1, 4)):
            data[at] = random.integers(256)
        with zipfile.ZipFile(path, "w") as out:
            for other, content in members.items():
                out.writestr(other, bytes(data) if other == name else content)
        try:
            tensors = read_torch_file(path)
        except ModelError as error:
            assert str(error).startswith(str(path))
        else:
            assert all(tensor.numel() < 1000 for tensor in tensors.values())
