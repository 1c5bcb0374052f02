"""Weights in PyTorch's format, read without PyTorch's loader.

Such a file is a zip: a pickle that describes the tensors, and their numbers, one member per storage. The
pickle is followed instruction by instruction, and nothing that it names is ever called or imported: a name
that is not in `_KNOWN` rejects the file, any other becomes one of the few values below. Numbers are read
last: every tensor must fit into its storage, and the storage must have the size of its member.

Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13; `pickletools` describes the instructions.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mambamed.errors import ModelError
from mambamed.io.members import Member, members_of, opened
from mambamed.run.tensors import MOST_NUMBERS, read_flat

_MOST_MEMBERS = 100_000
_LONGEST_PICKLE = 2**23  # 200 bytes per tensor are usual
_MOST_AXES = 8
_MOST_VALUES = 1_000_000  # of what is no tensor, and is asked for
_NUMPY_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_REMEDY = "Ask for a safetensors file, or for the file as torch.save wrote it."
_PLAIN = "Ask for a safetensors file, or save its state dict alone."
# Where checkpoints of training frameworks keep the weights, nnU-Net's first
_WEIGHTS = ("network_weights", "state_dict", "model_state_dict", "model", "net")

# module -> names that describe data; None: every name
_KNOWN: dict[str, set[str] | None] = {
    "torch": None,
    "torch._utils": None,
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
    "collections": {"OrderedDict", "Counter", "defaultdict"},
    "builtins": {"set", "complex", "bytearray", "int", "float", "dict", "list"},
    "__builtin__": {"set", "complex", "bytearray", "int", "float", "dict", "list"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "numpy.dtypes": None,
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Name:
    """A name of a module, which is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor that is not read yet: a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _NumpyType:
    """A type of NumPy's numbers."""

    code: str
    byte_order: str = "="


@dataclass(frozen=True)
class _Other:
    """A value that is neither weight, number nor text: a device, an array of NumPy, ..."""

    name: str = "an object"


class _MalformedError(Exception):
    pass


@dataclass(frozen=True)
class TorchFile:
    """What a file of `torch.save` describes; the numbers of its tensors are not read yet."""

    path: Path
    content: Any
    members: Mapping[str, Member]
    prefix: str

    def weights(self) -> dict[str, Tensor]:
        """The named tensors: of a state dict, alone or in a checkpoint; errors as of `read_torch_file`."""
        return _weights_of(self)

    def value(self, *keys: str) -> Any:
        """What stands below keys of nested dictionaries, JSON-ready: lists for tuples, numbers for NumPy's.

        None if there is no such key.

        Raises:
            ModelError: it holds something else than text, numbers, lists and dictionaries; it is named.
        """
        found = self.content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        try:
            return _plain(found, f"{self.path}: {'.'.join(keys)}", [_MOST_VALUES])
        except RecursionError as error:
            raise ModelError(f"{self.path}: {'.'.join(keys)}: nested too deeply. {_PLAIN}") from error


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file that `torch.save` wrote: a state dict, alone or in a checkpoint.

    Raises:
        ModelError: it is of another kind, damaged, holds more than data, or claims more than it holds.
    """
    return open_torch_file(path).weights()


def open_torch_file(path: Path) -> TorchFile:
    """Read what a file of `torch.save` describes; errors as of `read_torch_file`."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if start != b"PK\3\4":
        raise ModelError(
            f"{path}: is neither safetensors nor a zip of torch.save; to read another kind could run code. "
            f"{_PLAIN}"
        )
    members = members_of(path, "file of weights", _MOST_MEMBERS, _REMEDY)
    described = next((m for name, m in members.items() if name.rpartition("/")[2] == "data.pkl"), None)
    if described is None:
        raise ModelError(f"{path}: has no data.pkl, so torch.save did not write it. {_REMEDY}")
    if described.size > _LONGEST_PICKLE:
        raise ModelError(f"{described}: is larger than {_LONGEST_PICKLE >> 20} MB. {_REMEDY}")
    prefix = described.name.removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and (order.size > 6 or order.read_bytes() != b"little"):
        raise ModelError(f"{order}: expected little. {_REMEDY}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of a "\\" in a name
            content = _followed(described)
    except (_MalformedError, ValueError, TypeError, IndexError, KeyError, Warning) as error:
        raise ModelError(f"{described}: does not describe tensors ({error}). Copy the file again.") from error
    return TorchFile(path, content, members, prefix)


def _weights_of(file: TorchFile) -> dict[str, Tensor]:
    path, content, members, prefix = file.path, file.content, file.members, file.prefix
    for key in _WEIGHTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        kind = {_View: "a tensor", _Other: "one value", bytes: "one value"}.get(
            type(content), type(content).__name__
        )
        raise ModelError(f"{path}: holds {kind}, not named tensors. Save the state dict.")
    views = {str(name): view for name, view in content.items() if isinstance(view, _View)}
    if not views:
        raise ModelError(f"{path}: contains no tensor. Give the weights that the authors published.")
    storages: dict[str, Tensor] = {}
    for name, view in views.items():
        _check_size(path, name, view, members.get(f"{prefix}data/{view.storage.key}"))
    for view in views.values():
        key = view.storage.key
        if key not in storages:
            storages[key] = _read_storage(members[f"{prefix}data/{key}"], view.storage.dtype)
    return {name: _placed(storages[view.storage.key], view) for name, view in views.items()}


def _plain(value: Any, where: str, left: list[int]) -> Any:
    """See `TorchFile.value`; `left` counts down, as a pickle may name one list many times."""
    left[0] -= 1
    if left[0] < 0:
        raise ModelError(f"{where}: expected at most {_MOST_VALUES} values. {_PLAIN}")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}", left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}.{number}", left) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = value.name if isinstance(value, _Other) else "a tensor" if isinstance(value, _View) else str(value)
    raise ModelError(f"{where}: expected text, numbers, lists or dictionaries, got {kind}. {_PLAIN}")


def _placed(storage: Tensor, view: _View) -> Tensor:
    return storage.view(view.storage.dtype).as_strided(view.shape, view.stride, view.offset)


def _check_size(path: Path, name: str, view: _View, member: Member | None) -> None:
    count, storage = math.prod(view.shape), view.storage
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
    bytes_of = storage.count * storage.dtype.itemsize
    fact = ""
    if member is None or member.size != bytes_of:
        fact = f"its storage of {bytes_of} bytes is not in the file"
    elif (
        math.prod(n or 1 for n in view.shape) > MOST_NUMBERS
        or count > storage.count
        or (count and last >= storage.count)
    ):
        fact = f"shape {view.shape} needs more than its storage of {storage.count} numbers"
    if fact:
        raise ModelError(f"{path}: {name!r}: {fact}. {_REMEDY}")


def _read_storage(member: Member, dtype: torch.dtype) -> Tensor:
    try:
        with opened(member) as (file, size):
            numbers = read_flat(file, size, dtype)
    except (OSError, ValueError) as error:
        raise ModelError(f"{member}: cannot be read ({error}). Copy the file again.") from error
    if zlib.crc32(numbers.view(torch.uint8).numpy().data) != member.crc:
        raise ModelError(f"{member}: corrupt: its checksum differs. Copy the file again.")
    return numbers


def _followed(described: Member) -> Any:
    """The value that the instructions of a pickle of protocol 2 describe."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        mark = marks.pop()
        values = stack[mark:]
        del stack[mark:]
        return values

    def last(count: int) -> list[Any]:
        if count > len(stack):
            raise _MalformedError("too few values")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    for code, value, _ in pickletools.genops(described.read_bytes()):
        match code.name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code.name == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(value)
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(code.name[-1]))))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "APPEND" | "APPENDS":
                values = last(1) if code.name == "APPEND" else since_mark()
                if isinstance(stack[-1], list):
                    stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = last(2) if code.name == "SETITEM" else since_mark()
                if isinstance(stack[-1], dict):
                    stack[-1].update(zip(map(_key, values[::2]), values[1::2], strict=True))
            case "BUILD":
                (state,) = last(1)  # the attributes of a value, which are not weights
                if isinstance(stack[-1], _NumpyType) and isinstance(state, tuple) and len(state) > 1:
                    stack[-1].byte_order = str(state[1])
            case "GLOBAL":
                stack.append(_known(str(value), described))
            case "REDUCE" | "NEWOBJ":
                called, arguments = last(2)
                stack.append(_made(called, arguments))
            case "BINPERSID":
                stack.append(_storage(*last(1)))
            case _:
                raise _MalformedError(f"instruction {code.name} is not one of torch.save")
    return stack[-1]


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | bool | None):
        raise _MalformedError("expected text or a number as a key")
    return key


def _known(words: str, described: Member) -> _Name:
    name = _Name(*words.split(" ", 1))
    allowed = _KNOWN.get(name.module, set())
    if allowed is not None and name.name not in allowed:
        raise ModelError(
            f"{described.archive}: contains more than tensors and numbers, and reading it could run code "
            f"({name}). {_PLAIN}"
        )
    return name


def _made(called: Any, arguments: Any) -> Any:
    """What a call in the pickle stands for; nothing is called."""
    name = str(called) if isinstance(called, _Name) else ""
    if name in {"collections.OrderedDict", "collections.defaultdict"}:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {_key(key): value for key, value in pairs}
    if name in {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}:
        return arguments[0]
    if name == "_codecs.encode" and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin1")  # bytes, in pickles of protocol 2
    if name == "numpy.dtype":
        return _NumpyType(str(arguments[0]))
    if name.endswith("multiarray.scalar") and len(arguments) == 2:
        return _number(*arguments)
    if name != "torch._utils._rebuild_tensor_v2":
        return _Other(name or "an object")
    storage, offset, shape, stride = arguments[:4]
    whole = all(type(n) is int and 0 <= n <= MOST_NUMBERS for n in (offset, *shape, *stride))
    if not isinstance(storage, _Storage) or not whole or not len(shape) == len(stride) <= _MOST_AXES:
        raise _MalformedError("a tensor without storage, shape or stride")
    return _View(storage, offset, tuple(shape), tuple(stride))


def _number(kind: Any, data: Any) -> Any:
    """A number of NumPy from its bytes."""
    known = isinstance(kind, _NumpyType) and _NUMPY_NUMBER.fullmatch(kind.code)
    if not known or kind.byte_order not in ("<", ">", "|", "=") or not isinstance(data, bytes):
        return _Other("numpy.generic")
    dtype = np.dtype(kind.byte_order + kind.code)
    if len(data) != dtype.itemsize:
        raise _MalformedError("a number of another length than its type")
    return np.frombuffer(data, dtype)[0].item()


def _storage(identifier: Any) -> _Storage | _Other:
    word, kind, key, _, count = identifier
    if word != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
        raise _MalformedError("a storage without a name or size")
    dtype = _STORAGES.get(kind.name) if isinstance(kind, _Name) else None
    return _Storage(dtype, key, count) if dtype else _Other()
