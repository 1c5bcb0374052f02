"""Hostile neighbors of healthy bytes: seeded, so that a number gives the same input again."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

# What arithmetic on sizes and offsets trips over.
_INTEGERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"), 352.0, 1e6)
_WORDS = (
    *(b"NaN", b"Infinity", b"-1e999", b"1e400", b"0x10", b"1,5", b"null", b"true", b"{}", b"[]", b'""', b"-"),
    *(b"../../x", b"/etc/passwd", b"=1+1", b"\0", b"\xff\xfe", b"\r\n", b"\n", b"\t", b";", b",", b":", b"#"),
    *(b"!!python/object/apply:os.system", b"&a", b"*a", b"[" * 200, b"{" * 200, b"9" * 400, b"9" * 5000),
    *(b"\xe2\x80\xae", b"\xf0\x9f\x92\xa9", b"'", b'"', b"|", b"- ", b"? ", b"<<", b"%", b"\\u0000"),
)


def mutated(seed: bytes, others: Sequence[bytes], random: np.random.Generator) -> bytes:
    """The bytes with a few changes, one in half of the cases.

    Args:
        seed: to begin with.
        others: from which parts may be taken.
        random: draws them.
    """
    data = bytearray(seed)
    for _ in range(min(int(random.geometric(0.5)), 8)):
        change = _CHANGES[int(random.integers(len(_CHANGES)))]
        data = change(data, others, random)
    return bytes(data[: 2**20])


def _place(data: bytearray, random: np.random.Generator) -> int:
    return int(random.integers(len(data) + 1))


def _bit(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    if data:
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return data


def _byte(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    if data:
        data[int(random.integers(len(data)))] = int(random.integers(256))
    return data


def _number(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    """A number that arithmetic trips over, as 2, 4 or 8 bytes, at any place, mostly an even one."""
    order = "<>"[int(random.integers(2))]
    if random.random() < 0.5:
        kind = "hiq"[int(random.integers(3))]
        value = _INTEGERS[int(random.integers(len(_INTEGERS)))]
        bits = 8 * struct.calcsize(kind)
        value = (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        number = struct.pack(order + kind, value)
    else:
        number = struct.pack(order + "f", _FLOATS[int(random.integers(len(_FLOATS)))])
    at = _place(data, random) & (~1 if random.random() < 0.8 else ~0)
    data[at : at + len(number)] = number
    return data


def _word(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    """A word put in, or in place of as many bytes."""
    word, at = _WORDS[int(random.integers(len(_WORDS)))], _place(data, random)
    data[at : at + (len(word) if random.random() < 0.3 else 0)] = word
    return data


def _digits(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    """Another number where digits stand."""
    numbers = np.frombuffer(bytes(data), np.uint8)
    places = np.flatnonzero((numbers >= 48) & (numbers < 58))
    if places.size:
        at = int(places[int(random.integers(len(places)))])
        end = at
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        values = (*_INTEGERS, 10**12, 10**30, "1e300", "nan", "1.5", "-0.0", "")
        data[at:end] = str(values[int(random.integers(len(values)))]).encode()
    return data


def _cut(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    at = _place(data, random)
    end = len(data) if random.random() < 0.3 else at + int(random.integers(1, 20))
    del data[at:end]
    return data


def _twice(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    at = _place(data, random)
    part = data[at : at + int(random.integers(1, 80))]
    data[at:at] = part * int(random.integers(1, 4))
    return data


def _spliced(data: bytearray, others: Sequence[bytes], random: np.random.Generator) -> bytearray:
    other = others[int(random.integers(len(others)))]
    at, start = _place(data, random), int(random.integers(len(other) + 1))
    part = other[start : start + int(random.integers(1, 200))]
    data[at : at + (len(part) if random.random() < 0.5 else 0)] = part
    return data


_CHANGES = (_bit, _byte, _number, _number, _word, _digits, _cut, _twice, _spliced)
