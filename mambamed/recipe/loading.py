"""Loads and checks recipes: `extends`, overrides, and all faults in one error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from mambamed.errors import RecipeError
from mambamed.recipe.document import KeyPath, Origin, Yaml12Dumper, parse_document, parse_value
from mambamed.recipe.schema import Recipe
from mambamed.schema_errors import did_you_mean, fact_of, key_paths, keys_at, named

_MAX_PARENTS = 8
_MAX_NAME_BYTES = 200
_LIST = re.compile(r"[\w.@:+-]+(,[\w.@:+-]+)+")  # 64,64,64 in an override
_SCHEMA = 1  # the newest version of the schema


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and the recipes that it extends, apply overrides, and check it.

    Args:
        recipe: a path, or the name of a shipped recipe (`brats_nnmamba`).
        overrides: `key=value` texts, e.g. `training.epochs=10`; parsed as YAML.

    Raises:
        RecipeError: one line per fault: `file:line: key: fact. What to do.`
    """
    return _valid(*recipe_and_faults(recipe, overrides))


def _valid(recipe: Recipe | None, faults: Sequence[str]) -> Recipe:
    if faults or recipe is None:
        raise RecipeError("\n".join(faults))
    return recipe


def recipe_and_faults(
    recipe: str | Path, overrides: Sequence[str] = ()
) -> tuple[Recipe | None, tuple[str, ...]]:
    """The recipe without its faulty keys, None if nothing is left of it, and one line per fault.

    The arguments are those of `load_recipe`.

    Raises:
        RecipeError: no such recipe, or it is not a YAML mapping.
    """
    path = find_recipe(recipe)
    values, origins = _read_with_parents(path, seen=())
    for override in overrides:
        _apply_override(values, origins, override)
    values.setdefault("name", path.stem)
    return _checked(values, origins, str(path))


def parse_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check the text of a recipe that extends no other one; `name` is its name, also in messages.

    Raises:
        RecipeError: see `load_recipe`.
    """
    values, origins = _parsed(text, name)
    for override in overrides:
        _apply_override(values, origins, override)
    values.setdefault("name", name)
    return _valid(*_checked(values, origins, name))


def overridden(overrides: Sequence[str]) -> dict[str, Any]:
    """The keys that `key=value` texts set, as nested mappings.

    >>> overridden(["network.name=segmamba"])
    {'network': {'name': 'segmamba'}}
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _apply_override(values, {}, override)
    return values


def parse_recipe_of_run(text: str, file: str) -> Recipe:
    """Check recipe.yaml of a run, which extends no other recipe; `file` is named in messages.

    Raises:
        RecipeError: see `load_recipe`.
    """
    values, origins = _parsed(text, file)
    if "extends" in values:
        raise RecipeError(f"{origins[('extends',)]}: extends: unknown key in the recipe of a run. Remove it.")
    values.setdefault("name", "recipe")
    return _valid(*_checked(values, origins, file, of_a_run=True))


def find_recipe(recipe: str | Path) -> Path:
    """The file of a path, or of the name of a shipped recipe (also as `recipes/NAME.yaml`).

    Raises:
        RecipeError: no such file and no such name.
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
        raise RecipeError(
            f"{recipe}: is a folder. Give a recipe file or a name from 'mambamed recipes list'."
        )
    hint = did_you_mean(path.stem, shipped)
    raise RecipeError(f"{recipe}: no such recipe{hint or '.'} See 'mambamed recipes list', or give a path.")


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the shipped recipes, sorted."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


@dataclass(frozen=True)
class RecipeLine:
    """A shipped recipe; `data` is the name of its prepared dataset, or empty."""

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


def select_recipes(lines: Sequence[RecipeLine], **wanted: str | None) -> list[RecipeLine]:
    """The recipes whose fields have the wanted values; None accepts all.

    Raises:
        RecipeError: a value that no recipe has.
    """
    for name, value in wanted.items():
        known = sorted({getattr(line, name) for line in lines} - {""})
        if value is not None and value not in known:
            raise RecipeError(f"--{name} {value}: no recipe has it. Choose one of {', '.join(known)}.")
    return [line for line in lines if all(value in (None, getattr(line, n)) for n, value in wanted.items())]


def _first_sentence(file: Path) -> str:
    """The first sentence of the header comment of a recipe, which may span several lines."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#  "):
            break
        words += line.lstrip("#").split()
    sentence = re.match(r".*?[.](?= [A-Z]|$)", " ".join(words))
    return sentence[0].rstrip(".") if sentence else " ".join(words)


def dump_recipe(recipe: Recipe, exclude: Any = None) -> str:
    """The recipe as YAML with all defaults filled in; `load_recipe` reads it back unchanged.

    Args:
        exclude: keys to leave out, in the form of pydantic's `model_dump`.
    """
    values = recipe.model_dump(mode="json", exclude=exclude)
    return yaml.dump(values, Dumper=Yaml12Dumper, sort_keys=False, allow_unicode=True, width=110)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Shipped recipe, or file in the same folder, whose keys are inherited.",
    }
    schema["properties"]["schema"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": _SCHEMA,
        "description": f"Version of the schema of recipes (default: {_SCHEMA}).",
    }
    return schema


def _read_with_parents(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    path = path.resolve() if seen else path
    if path.resolve() in seen or len(seen) > _MAX_PARENTS:
        raise RecipeError(
            f"{path}: extends: circular through {', '.join(p.name for p in seen)}. Remove one 'extends'."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text ({error}). Give a YAML file.") from error
    values, origins = _parsed(text, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return values, origins
    at = origins[("extends",)]
    is_name = isinstance(parent, str) and Path(parent).name == parent and parent not in {"", ".", ".."}
    if not is_name or len(parent.encode("utf-8", "replace")) > _MAX_NAME_BYTES or "\0" in parent:
        raise RecipeError(
            f"{at}: extends: expected the name of a shipped recipe or of a file in the same folder, "
            f"got {str(parent)[:60]!r}. Correct the name."
        )
    beside = path.parent / parent
    file = beside if beside.is_file() else shipped_recipes().get(parent)
    if file is None:
        hint = did_you_mean(parent, shipped_recipes()) or ". See 'mambamed recipes list'."
        raise RecipeError(f"{at}: extends: no recipe {parent!r}{hint}")
    inherited, inherited_origins = _read_with_parents(file, (*seen, path.resolve()))
    return _merge(inherited, values), inherited_origins | origins


def _parsed(text: str, file: str) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    """Values and origins of one file, after a check of its schema version."""
    values, origins = parse_document(text, file)
    version = values.pop("schema", _SCHEMA)
    if type(version) is not int or not 1 <= version <= _SCHEMA:
        newer = isinstance(version, int) and version > _SCHEMA
        remedy = "Update mambamed." if newer else f"Write schema: {_SCHEMA}."
        raise RecipeError(
            f"{origins[('schema',)]}: schema: expected at most {_SCHEMA}, got {version!r}. {remedy}"
        )
    return values, origins


def _checked(
    values: Mapping[str, Any], origins: Mapping[KeyPath, Origin], file: str, of_a_run: bool = False
) -> tuple[Recipe | None, tuple[str, ...]]:
    """The recipe; one of a run may have keys without effect and unknown metrics, from earlier versions.

    Whether keys agree is checked only among valid ones: faulty keys are left out, and the rest is checked
    again. Faults in a section with other faults are then ignored, as they may follow from these.
    """
    lines: list[str] = []
    sections: set[KeyPath] = set()
    while True:
        try:
            return Recipe.model_validate(values, context=of_a_run), tuple(dict.fromkeys(lines))
        except ValidationError as error:  # noqa: PERF203
            paths = [tuple(fault["loc"]) for fault in error.errors()]
            lines += [
                _fault_line(fault, origins, file)
                for fault, path in zip(error.errors(), paths, strict=True)
                if not {path, path[:-1]} & sections
            ]
            rest = _without(values, paths)
            if rest == values or ("task",) in paths:
                return None, tuple(dict.fromkeys(lines))
            sections |= {path[:-1] for path in paths if len(path) > 1}
            values = rest


def _without(values: Mapping[str, Any], paths: Sequence[KeyPath]) -> dict[str, Any]:
    """Nested values without what lies at these paths, or else at the deepest key of each that exists."""
    rest = dict(values)
    below: dict[str | int, list[KeyPath]] = {}
    for path in paths:
        below.setdefault(path[0] if path else "", []).append(path[1:])
    for key, inner in below.items():
        value = values.get(str(key))
        nested = isinstance(value, Mapping) and all(path and path[0] in value for path in inner)
        if nested:
            rest[str(key)] = _without(cast(Mapping[str, Any], value), inner)
        else:
            rest.pop(str(key), None)
    return rest


def _merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Merge sections key by key; mappings of names (labels, regions, ...) are replaced as a whole."""
    merged = dict(parent)
    for key, value in child.items():
        whole = key in {"channels", "labels", "regions", "covariates", "paper"}
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and not whole:
            # The options of another network are not inherited.
            another = key == "network" and value.get("name") not in {None, merged[key].get("name")}
            merged[key] = dict(value) if another else _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _apply_override(values: dict[str, Any], origins: dict[KeyPath, Origin], override: str) -> None:
    key, equals, text = override.partition("=")
    override = override if len(override) <= 100 else f"{override[:97]}..."
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {named(override)}: expected key=value, e.g. training.epochs=10.")
    at = values
    for part in path[:-1]:
        if not isinstance(at.setdefault(part, {}), dict):
            raise RecipeError(f"--set {override}: {part} is not a section. Correct the key.")
        at = at[part]
    at[path[-1]] = parse_value(f"[{text}]" if _LIST.fullmatch(text) else text)
    for depth in range(1, len(path) + 1):
        origins.setdefault(path[:depth], Origin(f"--set {override}"))
    for below in [key for key in origins if key[: len(path)] == path]:
        del origins[below]  # of the value that is replaced
    origins[path] = Origin(f"--set {override}")


def _fault_line(fault: Any, origins: Mapping[KeyPath, Origin], file: str) -> str:
    """Format one pydantic fault as `file:line: key: fact. What to do.`"""
    location = tuple(fault["loc"])
    known = location
    while known and known not in origins:
        known = known[:-1]
    at = origins.get(known, Origin(file))
    # Pydantic adds the tried alternatives of a union ("literal[...]", "tuple[...]") to the location.
    key = ".".join(named(part) for part in location[: len(known) + 1] if "[" not in str(part))
    fact = fact_of(fault, keys_at(Recipe, location[:-1]))
    if fault["type"] == "extra_forbidden" and (elsewhere := _keys_named(str(location[-1]), location[:-1])):
        fact = f"unknown key - did you mean {' or '.join(map(repr, elsewhere))}?"
    if fault["type"] == "missing":
        fact = "missing. Add it."
    elif fact.startswith("expected") and not fact.endswith("."):
        fact += ". Correct the value."
    if at.line is not None and at.file != file and _is_valid(at.file):
        return f"{file}: {key}: {fact} It is inherited from {at}."
    return f"{at}: {key or 'recipe'}: {fact}"


def _is_valid(file: str) -> bool:
    try:
        load_recipe(file)
    except RecipeError:
        return False
    return True


def _keys_named(name: str, section: Sequence[str | int]) -> list[str]:
    """The keys of this name in other sections; those below the section, if there are any."""
    found = [key for key in key_paths(Recipe) if key.rpartition(".")[2] == name]
    below = [key for key in found if key.startswith(".".join(map(str, section)) + ".")]
    return (below or found)[:3]
