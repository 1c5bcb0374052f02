"""Hostile neighbors of healthy bytes: seeded, so that a number gives the same input again."""

from __future__ import annotations

import copy
import json
import pickletools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

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

# Put in place of a value of JSON, as it is: text that is no JSON, or that no other value gives.
_RAW = (
    *("NaN", "-Infinity", "1e400", "-0.0", "1E-400", "0.1e1", "9" * 400, "9" * 5000, "01", "1.", "0x1", "+1"),
    *("true", "false", "null", '""', '"\\ud800"', '"\\u0000"', '"\\u202e\\u001b[2J\\n"', '"a\\nb"', "'a'"),
    *("[]", "{}", "[[]]", "[{}]", '{"a": 1, "a": 2}', "[" * 3000, '{"a":' * 3000, "[" * 900 + "]" * 900),
    *('"' + "a" * 5000 + '"', '{"' + "a" * 5000 + '": 1}', '"../../x"', '"/etc/passwd"', '"1"', '"0"', "1.5"),
    *(
        "-1",
        "0",
        "1",
        "2",
        "65536",
        "4294967296",
        "1e308",
        "1e15",
        "[" + "0," * 3000 + "0]",
        '{"": null}',
        "",
    ),
)
_RENAMED = ("", "format", "a\nb", "\ud800", "a" * 3000, "0", "-1", "²", "../x", "\x1b[2J", "__proto__", "\0")
_MARK = "@raw@"


def mutated_json(seed: bytes, others: Sequence[bytes], random: np.random.Generator) -> bytes:
    """A JSON document with a few values or keys changed; of lines of JSON, one line; or bytes changed."""
    try:
        document = json.loads(seed)
    except ValueError:
        lines = seed.split(b"\n")
        if len(lines) < 2 or random.random() < 0.4:
            return mutated(seed, others, random)
        at = int(random.integers(len(lines)))
        lines[at] = mutated_json(lines[at], lines, random) if lines[at] else seed
        return b"\n".join(lines)
    if random.random() < 0.25:
        return mutated(seed, others, random)
    holder, raws = [document], []
    for _ in range(min(int(random.geometric(0.5)), 6)):
        _change_json(holder, raws, random)
    text = json.dumps(
        holder[0], ensure_ascii=bool(random.random() < 0.5), indent=int(random.integers(2)) or None
    )
    for raw in raws:
        text = text.replace(f'"{_MARK}"', raw, 1)
    start = b"\xef\xbb\xbf" if random.random() < 0.02 else b""
    end = (b"", b"}", b" x", b"\0", b"\n[]")[int(random.integers(5))] if random.random() < 0.04 else b""
    return (start + text.encode("utf-8", "surrogatepass") + end)[: 2**20]


def _change_json(holder: list[Any], raws: list[str], random: np.random.Generator) -> None:
    places = list(_places(holder))
    parent, key = places[int(random.integers(len(places)))]
    other_parent, other_key = places[int(random.integers(len(places)))]
    kind = int(random.integers(8))
    if kind < 3:
        raws.append(_RAW[int(random.integers(len(_RAW)))])
        parent[key] = _MARK
    elif kind == 3 and parent is not holder:
        del parent[key]
    elif kind == 4:
        parent[key] = copy.deepcopy(other_parent[other_key])
    elif kind == 5 and isinstance(parent, dict):
        known = [k for p, k in places if isinstance(p, dict)]
        names = _RENAMED if random.random() < 0.5 else known
        parent[names[int(random.integers(len(names)))]] = parent.pop(key)
    elif kind == 6 and isinstance(parent, list) and parent is not holder:
        parent.extend([copy.deepcopy(parent[key])] * int(random.integers(1, 4)))
    else:
        value = parent[key]
        parent[key] = _near(value, random)


def _near(value: Any, random: np.random.Generator) -> Any:
    """A value of another type that means the same, or one a little beside it."""
    choices: list[Any] = [[value], {"a": value}, str(value), bool(value)]
    if isinstance(value, (int, float)):
        choices += [-value, value + 1, value * 1e10, value * 10**30, float(value), value - 0.5]
    if isinstance(value, str):
        choices += [value + " ", value.upper(), value * 100, value[1:], value + "\n", "\u202e" + value]
    return choices[int(random.integers(len(choices)))]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of it."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def mutated_pickle(seed: bytes, random: np.random.Generator) -> bytes:
    """A pickle with a few instructions removed, repeated or exchanged."""
    at = [position for _, _, position in pickletools.genops(seed)]
    parts = [seed[first:last] for first, last in zip(at, [*at[1:], len(seed)], strict=True)]
    for _ in range(min(int(random.geometric(0.4)), 8)):
        one, two = (int(random.integers(len(parts))) for _ in range(2))
        kind = int(random.integers(5))
        if kind == 0 and len(parts) > 1:
            del parts[one]
        elif kind == 1:
            parts[one] = parts[two]
        elif kind == 2:
            parts[one], parts[two] = parts[two], parts[one]
        elif kind == 3:
            parts.insert(one, parts[two])
        else:
            parts.insert(one, _INSTRUCTIONS[int(random.integers(len(_INSTRUCTIONS)))])
    return b"".join(parts)


_INSTRUCTIONS = (
    *(b"(", b".", b"0", b"1", b"2", b"N", b"Q", b"R", b"\x81", b"a", b"b", b"e", b"s", b"t", b"u", b"}"),
    *(b"]", b")", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"K\x00", b"M\xff\xff", b"J" + b"\xff" * 4),
    *(b"h\x00", b"\x8a\xff" + b"\xff" * 255, b"\x8a\x08" + b"\x7f" * 8, b"G\x7f\xf0" + bytes(6), b"q\x01"),
    *(b"X\0\0\0\0", b"X\x03\0\0\0\xff\xff\xff", b"X\xff\xff\xff\xff", b"I1\n", b"L" + b"9" * 5000 + b"L\n"),
    *(b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"c\n\n"),
    b"ctorch\nFloatStorage\n",
)
