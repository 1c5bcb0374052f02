"""Parses the YAML of recipes: YAML 1.2 scalars, no tags, no duplicate keys; keeps the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from mambamed.errors import RecipeError

KeyPath = tuple[str | int, ...]

_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "tag:yaml.org,2002:int": (re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"),
        list("-+.0123456789"),
    ),
}
_MAX_DEPTH = 32
_MAX_CHARACTERS = 1_000_000


class _Yaml12Loader(yaml.SafeLoader):
    """Safe loader with the scalars of YAML 1.2: `2e-3` is a number, `on` is a string."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    _Yaml12Loader.add_implicit_resolver(_tag, _pattern, _first)


class Yaml12Dumper(yaml.SafeDumper):
    """Quotes the strings that `parse_document` would read as something else, e.g. "08" and "1e3"."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 - PyYAML's own form
        key: list(resolvers) for key, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    Yaml12Dumper.add_implicit_resolver(_tag, _pattern, _first)


def value_text(value: Any) -> str:
    """A value as one line of YAML, which `parse_document` reads back.

    >>> value_text({"sides": ("left", "08"), "lr": 2e-3})
    "{sides: [left, '08'], lr: 0.002}"
    """
    plain = _plain(value)
    text = yaml.dump(
        plain, Dumper=Yaml12Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    )
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Origin:
    """Where a key is set: file and line, or an override on the command line."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


def parse_document(text: str, file: str) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    """Parse a recipe to its values and the origin of every key path; `file` is named in messages.

    Raises:
        RecipeError: invalid YAML, a tag, an anchor, a duplicate key, too deep or too long, or not a mapping.

    >>> values, origins = parse_document("training: {lr: 2e-3}\\nfast: on", "a.yaml")
    >>> values["training"]["lr"], values["fast"], str(origins[("fast",)])
    (0.002, 'on', 'a.yaml:2')
    """
    if len(text) > _MAX_CHARACTERS:
        raise RecipeError(
            f"{file}: expected at most {_MAX_CHARACTERS} characters, got {len(text)}. Give a recipe file."
        )
    try:
        _check_events(text, file)
        root = yaml.compose(text, Loader=_Yaml12Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            f"{file}{line}: not valid YAML: {problem}. Check indentation and quotes."
        ) from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(
            f"{file}: holds no keys. A recipe is a mapping, e.g. with the keys task and network."
        )
    origins: dict[KeyPath, Origin] = {}
    return _value(root, (), file, origins), origins


def parse_value(text: str) -> Any:
    """Parse the value of an override as YAML: `2e-3` is a number, `[1, 2]` a list, `adam` a string."""
    document, _ = parse_document(f"value: {text}", "--set")
    return document["value"]


def _check_events(text: str, file: str) -> None:
    """Reject anchors, tags and deep nesting before any value is constructed."""
    depth = 0
    for event in yaml.parse(text, Loader=_Yaml12Loader):
        at = f"{file}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecipeError(f"{at}: anchors are not allowed. Write the value out.")
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            raise RecipeError(f"{at}: tag {tag!r} is not allowed. Use text, numbers, lists and mappings.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise RecipeError(f"{at}: nested deeper than {_MAX_DEPTH} levels. Flatten the recipe.")


def _value(node: yaml.Node, path: KeyPath, file: str, origins: dict[KeyPath, Origin]) -> Any:
    line = node.start_mark.line + 1
    origins.setdefault(path, Origin(file, line))
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            at = f"{file}:{key_node.start_mark.line + 1}"
            if key is None:
                raise RecipeError(f"{at}: a key must be plain text. Correct the key.")
            if key in values:
                raise RecipeError(f"{at}: {'.'.join(map(str, (*path, key)))}: duplicate key. Keep one.")
            origins[(*path, key)] = Origin(file, key_node.start_mark.line + 1)
            values[key] = _value(value_node, (*path, key), file, origins)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), file, origins) for i, item in enumerate(node.value)]
    return _scalar(node, f"{file}:{line}")


def _scalar(node: yaml.Node, at: str) -> Any:
    text, kind = node.value, node.tag.rsplit(":", 1)[-1]
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as error:
        raise RecipeError(f"{at}: {text[:40]!r} is not a valid number. Correct the value.") from error
    return text
