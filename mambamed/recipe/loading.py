"""From a file or a name to a checked `Recipe`: `extends`, overrides, and every fault at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mambamed.errors import RecipeError
from mambamed.recipe.document import KeyPath, Origin, parse_document, parse_value
from mambamed.recipe.schema import Recipe

_MAX_PARENTS = 8
_MAX_NAME_BYTES = 200


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe with its parents, apply overrides, check everything.

    Args:
        recipe: a path, or the name of a shipped recipe (`brats_nnmamba`).
        overrides: `key=value` texts, as in `training.epochs=10`; read as YAML, checked like the file.

    Returns:
        The frozen recipe, its `name` filled in.

    Raises:
        RecipeError: one line a fault: `file:line: key: message - did you mean ...`.
    """
    path = find_recipe(recipe)
    values, origins = _read_with_parents(path, seen=())
    for override in overrides:
        _apply_override(values, origins, override)
    values.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_fault_line(fault, origins, str(path)) for fault in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(lines))) from error


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by the name of a shipped one.

    `recipes/NAME.yaml` finds the shipped recipe too, so that a command line copied from the
    documentation works where only the package is installed.

    Raises:
        RecipeError: there is no such file and no such name.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    by_name = str(recipe).endswith((".yaml", ".yml")) and path.parent == Path("recipes")
    name = path.stem if by_name else str(recipe)
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise RecipeError(f"{recipe}: is a folder; give a recipe file or a name from 'mambamed recipes list'")
    hint = _did_you_mean(path.stem, shipped)
    raise RecipeError(f"{recipe}: no such recipe{hint}; see 'mambamed recipes list' or give a path")


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with mambamed, sorted."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


@dataclass(frozen=True)
class RecipeLine:
    """A shipped recipe in one line.

    Attributes:
        name: what commands know it by.
        task, network: of the recipe.
        data: name of the prepared dataset that it is for; empty where it names none.
        headline: the first sentence of its comment, which says what it is.
    """

    name: str
    task: str
    network: str
    data: str
    headline: str


def describe_recipes() -> list[RecipeLine]:
    """The shipped recipes, one line each."""
    lines = []
    for name, file in shipped_recipes().items():
        recipe = load_recipe(file)
        data = Path(recipe.dataset.prepared).name if recipe.dataset.prepared else ""
        lines.append(RecipeLine(name, recipe.task, recipe.network.name, data, _first_sentence(file)))
    return lines


def _first_sentence(file: Path) -> str:
    """Of the comment at the head of a recipe, which may run over several lines."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#  "):
            break
        words += line.lstrip("#").split()
    sentence = re.match(r".*?[.](?= [A-Z]|$)", " ".join(words))
    return sentence[0].rstrip(".") if sentence else " ".join(words)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default filled in; `load_recipe` reads it back unchanged."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "A shipped recipe, or a file beside this one, whose keys hold where not given here.",
    }
    return schema


def _read_with_parents(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    path = path.resolve() if seen else path
    if path.resolve() in seen or len(seen) > _MAX_PARENTS:
        raise RecipeError(
            f"{path}: extends itself through {', '.join(p.name for p in seen)}; break the circle"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text ({error}); give a YAML file") from error
    values, origins = parse_document(text, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return values, origins
    at = origins[("extends",)]
    is_name = isinstance(parent, str) and Path(parent).name == parent and parent not in {"", ".", ".."}
    if not is_name or len(parent.encode("utf-8", "replace")) > _MAX_NAME_BYTES or "\0" in parent:
        raise RecipeError(
            f"{at}: extends: {str(parent)[:60]!r} is not the name of a shipped recipe or a file beside it"
        )
    beside = path.parent / parent
    file = beside if beside.is_file() else shipped_recipes().get(parent)
    if file is None:
        raise RecipeError(f"{at}: extends: no recipe {parent!r}{_did_you_mean(parent, shipped_recipes())}")
    inherited, inherited_origins = _read_with_parents(file, (*seen, path.resolve()))
    return _merge(inherited, values), inherited_origins | origins


def _merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; a mapping that names things (labels, regions, ...) is replaced whole."""
    merged = dict(parent)
    for key, value in child.items():
        whole = key in {"channels", "labels", "regions", "covariates", "paper"}
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and not whole:
            # Another network's options mean nothing to this one.
            another = key == "network" and value.get("name") not in {None, merged[key].get("name")}
            merged[key] = dict(value) if another else _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _apply_override(values: dict[str, Any], origins: dict[KeyPath, Origin], override: str) -> None:
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {override}: not of the form key=value, as in training.epochs=10")
    at = values
    for part in path[:-1]:
        if not isinstance(at.setdefault(part, {}), dict):
            raise RecipeError(f"--set {override}: {part} is not a section")
        at = at[part]
    at[path[-1]] = parse_value(text)
    for depth in range(1, len(path) + 1):
        origins.setdefault(path[:depth], Origin(f"--set {override}"))
    origins[path] = Origin(f"--set {override}")


def _fault_line(fault: Any, origins: Mapping[KeyPath, Origin], file: str) -> str:
    """One pydantic fault as `file:line: key: message - did you mean ...`."""
    location = tuple(fault["loc"])
    known = location
    while known and known not in origins:
        known = known[:-1]
    at = origins.get(known, Origin(file))
    # Pydantic adds the tried alternatives of a union ("literal[...]", "tuple[...]") to the location.
    key = ".".join(str(part) for part in location[: len(known) + 1] if "[" not in str(part))
    if fault["type"] == "extra_forbidden":
        return f"{at}: {key}: unknown key{_did_you_mean(str(location[-1]), _keys_at(location[:-1]))}"
    if fault["type"] == "missing":
        return f"{at}: {key}: is missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], Mapping) else f", here {fault['input']!r}"
    return f"{at}: {key or 'recipe'}: {message[:1].lower()}{message[1:]}{given}"


def _keys_at(location: Sequence[str | int]) -> list[str]:
    """The keys that the schema knows at a key path."""
    model: type[BaseModel] = Recipe
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    squeezed = {name.replace("_", ""): name for name in known}
    close = difflib.get_close_matches(
        word.replace("_", "").replace("-", "").lower(), list(squeezed), n=1, cutoff=0.6
    )
    return f" - did you mean '{squeezed[close[0]]}'?" if close else ""
