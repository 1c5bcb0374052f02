"""Tensors of a safetensors file, read where they lie: in a file of their own or in a model file.

A file may come from a stranger: its header is checked against its size before memory is taken for a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from mambamed.documents.foreign.safetensors import TensorTable
from mambamed.errors import MambamedError, ModelError
from mambamed.io.json_text import parse_json
from mambamed.io.members import Source, opened

MOST_NUMBERS = 2**40  # of a tensor, an axis of 0 counted as 1: no file holds so many
_LONGEST_HEADER = 100_000_000  # as the reader of the format's authors
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensors(
    source: Source, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """Read a safetensors file.

    Args:
        source: the file.
        wanted: whether the tensor of a name is to be read.

    Returns:
        The metadata, and name -> tensor on the CPU.

    Raises:
        ModelError: the file cannot be read, is damaged, or claims more than it holds.
    """
    try:
        with opened(source) as (file, size):
            begin, table = _header(file, size, source)
            tensors = {}
            for name, entry in table.in_order():
                if wanted(name):
                    file.seek(begin + entry.data_offsets[0])
                    flat = read_flat(file, entry.data_offsets[1] - entry.data_offsets[0], _TYPES[entry.dtype])
                    tensors[name] = flat.reshape(entry.shape)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise _incomplete(source, str(error)) from error
    return table.metadata, tensors


def read_flat(file: BinaryIO, size: int, dtype: torch.dtype) -> Tensor:
    """The next bytes of a file as a vector.

    Raises:
        ValueError: the file ends before.
    """
    data = torch.empty(size, dtype=torch.uint8)
    if size and file.readinto(data.numpy()) != size:  # type: ignore[attr-defined]
        raise ValueError("it ends too early")
    return data.view(dtype)


def _header(file: BinaryIO, size: int, source: Source) -> tuple[int, TensorTable]:
    """The position of the first tensor, and the table of all."""
    start = file.tell()
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise _incomplete(source, f"{size} bytes, of which the header would be {length}")
    try:
        table = TensorTable.checked(parse_json(file.read(length).decode(), source), source)
    except MambamedError as error:
        raise ModelError(str(error)) from error
    held, end = size - 8 - length, 0
    for name, entry in table.in_order():
        first, last = entry.data_offsets
        needed = math.prod(entry.shape) * _TYPES[entry.dtype].itemsize
        if first != end or last - first != needed or math.prod(n or 1 for n in entry.shape) > MOST_NUMBERS:
            raise _incomplete(
                source, f"{name}: expected {needed} bytes from {end} on, got those from {first} to {last}"
            )
        end = last
    if end != held:
        raise _incomplete(source, f"the tensors need {end} bytes, it has {held}")
    return start + 8 + length, table


def _incomplete(source: Source, fact: str) -> ModelError:
    return ModelError(f"{source}: is not a complete safetensors file ({fact}). Copy it again.")
