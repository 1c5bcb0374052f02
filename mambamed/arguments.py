"""Arguments of the commands: their help, and their conversion and checks in calls from Python."""

from __future__ import annotations

import functools
import importlib
import inspect
import numbers
import os
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from mambamed.errors import RecipeError

Command = TypeVar("Command", bound=Callable[..., Any])

# Aliases of annotations in `mambamed.api` -> what a call from Python accepts.
_ACCEPTED = {
    "AnyPath": "str | Path",
    "AnyPaths": "str | Path | list[str | Path]",
    "AnyRecipe": "str | Path",
    "AnyRecipes": "str | Path | list[str | Path]",
    "Items": "str | float | list[str | float]",
    "Texts": "str | list[str]",
}
# Numbers of any command: what is expected, and whether a number is that.
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "alpha": ("more than 0 and less than 1", lambda x: 0 < x < 1),
    "ci": ("more than 0 and less than 1", lambda x: 0 < x < 1),
    "epochs": ("at least 1", lambda x: x >= 1),
    "fold": ("at least 0", lambda x: x >= 0),
    "folds": ("at least 2", lambda x: x >= 2),
    "gpus": ("at least 1", lambda x: x >= 1),
    "jobs": ("at least 1", lambda x: x >= 1),
    "hours": ("more than 0", lambda x: x > 0),
    "max_cpu_minutes": ("more than 0", lambda x: x > 0),
    "max_hours": ("more than 0", lambda x: x > 0),
    "max_windows": ("at least 1", lambda x: x >= 1),
    "minutes": ("more than 0", lambda x: x > 0),
    "port": ("from 0 to 65535", lambda x: 0 <= x <= 65535),
    "overlap": ("at least 0 and less than 1", lambda x: 0 <= x < 1),
    "penalty": ("at least 0", lambda x: x >= 0),
    "seed": ("at least 0 and less than 2^32", lambda x: 0 <= x < 2**32),
    "threshold": ("at least 0 and at most 1", lambda x: 0 <= x <= 1),
    "workers": ("at least 0", lambda x: x >= 0),
    "worst": ("at least 0", lambda x: x >= 0),
}
_PROGRESS = "Callback that receives progress updates, see `mambamed.progress.Progress`."
_WIDTH = 100


def described(function: Callable[..., Any], shared: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The help of a command, and of each of its parameters, from the docstring.

    Args:
        shared: describes the parameters that the docstring of `function` leaves out.
    """
    text, own = _sections(function)
    helps = {"progress": _PROGRESS} | _sections(shared)[1] | own
    return text, {name: helps[name] for name in inspect.signature(function).parameters}


def with_checked_arguments(function: Command, shared: Callable[..., Any]) -> Command:
    """Wrap a command for calls from Python.

    Its arguments are converted to, or checked against, the types that it declares; its signature shows what
    is accepted, and its docstring describes every parameter.

    Args:
        shared: see `described`.
    """
    scope = vars(importlib.import_module(function.__module__))
    signature = inspect.signature(function)
    types = {
        name: eval(parameter.annotation, scope)  # the annotations of our own api module
        for name, parameter in signature.parameters.items()
        if name != "progress"
    }
    name = function.__name__.replace("recipes_", "recipes.")

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        given = signature.bind(*arguments, **options)
        for key, value in given.arguments.items():
            if key in types:
                given.arguments[key] = _checked(value, types[key], f"{name}(): {key}")
        check_ranges(given.arguments, lambda key: f"{name}(): {key}")
        return function(*given.args, **given.kwargs)

    parts = name.rpartition(".")
    checked.__module__ = f"mambamed.{parts[0]}".rstrip(".")
    checked.__name__ = checked.__qualname__ = parts[2]
    checked.__doc__ = _docstring(function, shared, signature)
    parameters = [
        each.replace(annotation=_shown(each.annotation, scope)) for each in signature.parameters.values()
    ]
    returned = _Unquoted(signature.return_annotation)
    checked.__signature__ = signature.replace(parameters=parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return cast(Command, checked)


def check_ranges(arguments: Mapping[str, Any], named: Callable[[str], str]) -> None:
    """Reject numbers out of range, before anything is read; texts such as "0,2" are checked by the command.

    Args:
        arguments: of a command.
        named: name of a parameter -> its name in the message.

    Raises:
        RecipeError: a number is out of range, or not a number.
    """
    for name in arguments.keys() & _RANGES.keys():
        expected, is_right = _RANGES[name]
        if isinstance(value := arguments[name], (int, float)) and not is_right(value):
            raise RecipeError(f"{named(name)} {value:g}: expected {expected}. Correct the number.")


class _Unquoted(str):
    """The text of an annotation, which `inspect` shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _shown(annotation: str, scope: Mapping[str, Any]) -> _Unquoted:
    """An annotation of `mambamed.api` with its aliases replaced by what they stand for."""

    def replaced(found: re.Match[str]) -> str:
        name = found[0]
        if get_origin(kind := scope.get(name)) is Literal:
            return f"Literal[{', '.join(map(repr, get_args(kind)))}]"
        return _ACCEPTED.get(name, name)

    return _Unquoted(re.sub(r"(?<!['\"\w.-])[A-Za-z_]\w*(?!['\"\w.-])", replaced, annotation))


def _sections(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and parameter -> help, from its section `Args`."""
    text, _, arguments = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", arguments, re.MULTILINE)
    return text, {name: " ".join(lines.split()) for name, lines in entries}


def _docstring(function: Callable[..., Any], shared: Callable[..., Any], signature: inspect.Signature) -> str:
    """The docstring for `help()`: Google style, every parameter described, no names of options."""
    text, helps = described(function, shared)
    entries = [
        textwrap.fill(f"{name}: {help}", _WIDTH, initial_indent="    ", subsequent_indent="        ")
        for name, help in helps.items()
    ]
    parts = [text]
    if entries:
        parts.append("\n".join(["Args:", *entries]))
    returned = f"{signature.return_annotation}: its attributes are the keys of the command's --json output."
    parts += [
        f"Returns:\n    {returned}",
        "Raises:\n    mambamed.errors.MambamedError: one line per fault: PATH: KEY: fact. What to do.",
    ]
    lines = "\n\n".join(parts)
    return re.sub(
        r"--([a-z][a-z-]*[a-z])",
        lambda found: name if (name := found[1].replace("-", "_")) in signature.parameters else found[0],
        lines,
    )


def _checked(value: Any, kind: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError  # not at the start: `--help` needs no pydantic

    from mambamed.schema_errors import fact_of

    if isinstance(value, os.PathLike) and "Path" not in str(kind):
        value = os.fspath(value)
    if "list[" in str(kind):
        value = [value] if isinstance(value, (str, os.PathLike)) else value
    elif str in {kind, *get_args(kind)}:
        value = _text(value)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        fact = "expected a path, got " + repr(value) if fault["type"] == "path_type" else fact_of(fault)
        raise RecipeError(f"{where}: {fact}. Correct the argument.") from error


def _text(value: Any) -> Any:
    """What the command line would receive: "0" for 0, "0,2" for [0, 2]; other values as they are."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, (str, numbers.Real)) for each in value):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value
