"""Every field of every document is damaged in turn; each damage is one line with path and key.

The models are found by themselves: a new one needs an example in `examples.py` and nothing here. What a value
may be is read from the annotation, by code of its own: JSON types, bounds, NaN, and the words of a Literal.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import pkgutil
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

import mambamed.documents
from mambamed.documents import base
from mambamed.documents.base import Document, ForeignDocument, Model
from mambamed.errors import MambamedError
from tests.documents.examples import EXAMPLES

PATH = Path("some") / "file.json"
OF_TYPE = {
    "string": "text",
    "integer": 7,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def models() -> set[type[Model]]:
    """All models of mambamed's own documents but the bases; foreign documents have a test of their own."""
    found = set()
    for module in pkgutil.iter_modules(mambamed.documents.__path__, "mambamed.documents."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Model) and not value.__name__.startswith("_"):
                found.add(value)
    bases = {value for value in vars(base).values() if isinstance(value, type)}
    return {model for model in found - bases if not issubclass(model, ForeignDocument)}


@dataclass
class Place:
    """A value in a document.

    Attributes:
        model: type of the document.
        example: the whole document.
        keys: way to the value.
        types: JSON types that it may have.
        bounds: (name, number) of its limits.
        words: values of its Literal.
        may_be_nan: whether it may be NaN.
        length: of a tuple of a fixed length.
        required: whether it may not be left out.
        owner: the model whose field it is, or is in.
    """

    model: type[Model]
    example: Any
    keys: tuple[Any, ...]
    owner: type[Model]
    types: set[str] = field(default_factory=set)
    bounds: list[tuple[str, float]] = field(default_factory=list)
    words: tuple[Any, ...] = ()
    may_be_nan: bool = False
    length: int | None = None
    required: bool = False

    def changed(self, value: Any) -> Any:
        """The document with another value there."""
        document = copy.deepcopy(self.example)
        at = document
        for key in self.keys[:-1]:
            at = at[key]
        at[self.keys[-1]] = value
        return document

    def dropped(self) -> Any:
        document = copy.deepcopy(self.example)
        at = document
        for key in self.keys[:-1]:
            at = at[key]
        del at[self.keys[-1]]
        return document

    @property
    def value(self) -> Any:
        at = self.example
        for key in self.keys:
            at = at[key]
        return at

    def faulty(self) -> Iterator[tuple[str, Any]]:
        """Every damage that must be reported, and the document that has it."""
        if self.required:
            yield "dropped", self.dropped()
        for kind, value in OF_TYPE.items():
            if kind not in self.types and not (kind == "integer" and "number" in self.types):
                yield f"wrong type {kind}", self.changed(value)
        if not self.may_be_nan and self.types & {"integer", "number"}:
            yield "NaN", self.changed(math.nan)
            yield "infinite", self.changed(math.inf)
        for name, bound in self.bounds:
            step = {"ge": -1, "gt": 0, "le": 1, "lt": 0}[name]
            yield f"out of range {name}", self.changed(bound + step)
        if self.words:
            yield "unknown value", self.changed("nonsense")
        if self.length is not None:
            yield "too long", self.changed([*self.value, *self.value[:1]])
            yield "too short", self.changed(self.value[:-1])


def places() -> Iterator[Place]:
    """One place of every field of every model, with what is inside it."""
    seen: set[tuple[type, str]] = set()
    for model, example in EXAMPLES:
        document = model.checked(example, PATH)
        yield from _fields(model, example, document, (), seen)


def _fields(
    model: type[Model], example: Any, instance: Model, keys: tuple[Any, ...], seen: set[tuple[type, str]]
) -> Iterator[Place]:
    kind = type(instance)
    for name, info in kind.model_fields.items():
        key = info.serialization_alias or name
        at = _at(example, keys)
        if not isinstance(at, dict) or key not in at:
            continue
        annotation = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        first = (kind, name) not in seen
        seen.add((kind, name))
        for place in _values(model, example, getattr(instance, name), (*keys, key), annotation, kind, seen):
            if len(place.keys) == len(keys) + 1:
                place.required = info.is_required()
            if first or place.owner is not kind:
                yield place


def _values(
    model: type[Model],
    example: Any,
    value: Any,
    keys: tuple[Any, ...],
    annotation: Any,
    owner: type,
    seen: Any,
) -> Iterator[Place]:
    place = Place(model, example, keys, owner)
    inner = _describe(annotation, place, value)
    yield place
    if isinstance(value, Model):
        yield from _fields(model, example, value, keys, seen)
    elif isinstance(value, tuple) and value:
        kinds = set()
        for number, each in enumerate(value):
            if type(each) in kinds and not place.length:
                continue
            kinds.add(type(each))
            some = Any if not inner else inner[0] if place.length is None else inner[number]
            yield from _values(model, example, each, (*keys, number), some, owner, seen)
    elif isinstance(value, dict) and value and len(inner) == 2:
        kinds = set()
        for key, each in value.items():
            if type(each) not in kinds:
                kinds.add(type(each))
                yield from _values(model, example, each, (*keys, key), inner[1], owner, seen)


def _describe(annotation: Any, place: Place, value: Any) -> list[Any]:
    """Fill in what an annotation allows; the arguments of the container that the value is."""
    origin, arguments = get_origin(annotation), list(get_args(annotation))
    if annotation is Any:
        place.types |= set(OF_TYPE)
        place.may_be_nan = True
        return []
    if origin is Annotated:
        for item in arguments[1:]:
            for part in [item, *getattr(item, "metadata", [])]:
                for name in ("ge", "gt", "le", "lt"):
                    if getattr(part, name, None) is not None:
                        place.bounds.append((name, getattr(part, name)))
                place.may_be_nan |= getattr(part, "allow_inf_nan", None) is True
        return _describe(arguments[0], place, value)
    if origin in (Union, types.UnionType):
        found = [_describe(part, place, value) for part in arguments]
        containers = [each for each in found if each]
        if len(containers) > 1 and isinstance(value, tuple):  # tuples of several lengths
            place.length = None
            return []
        return containers[0] if containers else []
    if origin is Literal:
        place.words = tuple(arguments)
        place.types |= {JSON_TYPES[type(word)] for word in arguments}
        return []
    if origin is tuple or annotation is tuple:
        place.types.add("array")
        if isinstance(value, tuple) and arguments and arguments[-1] is not Ellipsis:
            place.length = len(arguments)
        return arguments
    if origin is dict:
        place.types.add("object")
        return arguments
    if isinstance(annotation, type) and issubclass(annotation, Model):
        place.types.add("object")
        return []
    place.types.add(JSON_TYPES[type(None) if annotation is None else annotation])
    if annotation is float:
        place.types.add("integer")
    return []


def _at(document: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        document = document[key]
    return document


PLACES = list(places())


def reported(model: type[Model], document: Any) -> str | None:
    try:
        model.checked(document, PATH)
    except MambamedError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "model", sorted(models(), key=lambda model: model.__name__), ids=lambda m: m.__name__
)
def test_every_model_has_an_example(model) -> None:
    covered = {each for place in PLACES for each in place.owner.__mro__}
    assert model in covered, f"add an example of {model.__name__} to tests/documents/examples.py"


@pytest.mark.parametrize("place", PLACES, ids=lambda p: f"{p.owner.__name__}-{'.'.join(map(str, p.keys))}")
def test_a_damaged_value_is_reported_with_path_and_key(place) -> None:
    for damage, document in place.faulty():
        line = reported(place.model, document)
        assert line is not None, f"{damage}: accepted"
        key = next(key for key in reversed(place.keys) if isinstance(key, str))
        assert str(PATH) in line and str(key) in line, f"{damage}: {line}"
    if not place.required and isinstance(_at(place.example, place.keys[:-1]), dict):
        line = reported(place.model, place.dropped())  # legal, or reported
        assert line is None or str(PATH) in line


OWNERS = {(place.owner, place.model): place for place in PLACES if issubclass(place.owner, Model)}


@pytest.mark.parametrize("place", OWNERS.values(), ids=lambda p: f"{p.model.__name__}-{p.owner.__name__}")
def test_an_unknown_key_is_reported(place) -> None:
    depth = max(
        number
        for number in range(len(place.keys))
        if isinstance(_at(place.example, place.keys[:number]), dict)
    )
    document = copy.deepcopy(place.example)
    _at(document, place.keys[:depth])["zz_unknown"] = "text"
    line = reported(place.model, document)
    assert line is not None and str(PATH) in line and "zz_unknown" in line


@pytest.mark.parametrize(
    "model", [m for m, _ in EXAMPLES if issubclass(m, Document)], ids=lambda m: m.__name__
)
def test_a_newer_format_is_named(model) -> None:
    example = next(content for each, content in EXAMPLES if each is model)
    line = reported(model, {**example, "format": model.FORMAT + 1})
    assert line is not None and f"{PATH}: format: expected at most {model.FORMAT}" in line


TEXTS = {
    "trailing text": lambda text: text + " x",
    "two documents": lambda text: text + text,
    "a comment": lambda text: "// a" + text,
    "cut": lambda text: text[:-1],
    "a duplicate key": lambda text: text[:-1] + ', "format": 1, "format": 1}',
    "a number of 5000 digits": lambda text: text[:-1] + ', "zz": ' + "9" * 5000 + "}",
    "a newer format of 4000 digits": lambda text: '{"format": ' + "9" * 4000 + "}",
    "deep nesting": lambda text: text[:-1] + ', "zz": ' + "[" * 100_000,
    "a lone surrogate": lambda text: text[:-1] + r', "\ud800": "\ud800"}',
    "a number beyond float64": lambda text: text[:-1] + ', "format": 1e400}',
}


@pytest.mark.parametrize("damage", TEXTS)
@pytest.mark.parametrize(
    ("model", "example"),
    [e for e in EXAMPLES if issubclass(e[0], Document)],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_damaged_text_is_a_short_line(model, example, damage, tmp_path) -> None:
    content = {key: value for key, value in example.items() if key != "format"}
    path = tmp_path / "a.json"
    path.write_text(TEXTS[damage](json.dumps(content)))
    with pytest.raises(MambamedError) as caught:
        model.read(path)
    assert all(line.startswith(f"{path}: ") and len(line) < 2000 for line in str(caught.value).split("\n"))


@pytest.mark.parametrize(("model", "example"), EXAMPLES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_byte_order_mark_is_no_fault(model, example, tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(example), encoding="utf-8-sig")
    assert model.read(path).to_json() == model.checked(example, path).to_json() or "NaN" in path.read_text()
