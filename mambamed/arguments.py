"""Arguments of the commands when they are called as Python functions."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mambamed.errors import RecipeError
from mambamed.schema_errors import fact_of


def with_checked_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that its arguments are converted to, or checked against, the types it declares."""
    scope = vars(importlib.import_module(function.__module__))
    signature = inspect.signature(function)
    types = {
        name: eval(parameter.annotation, scope)  # the annotations of our own api module
        for name, parameter in signature.parameters.items()
        if name != "progress"
    }

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        given = signature.bind(*arguments, **options)
        for name, value in given.arguments.items():
            if name in types:
                given.arguments[name] = _checked(value, types[name], f"{function.__name__}(): {name}")
        return function(*given.args, **given.kwargs)

    return checked


def _checked(value: Any, kind: Any, where: str) -> Any:
    if isinstance(value, os.PathLike) and "Path" not in str(kind):
        value = os.fspath(value)
    if isinstance(value, (str, os.PathLike)) and "list[" in str(kind):
        value = [value]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        fact = "expected a path, got " + repr(value) if fault["type"] == "path_type" else fact_of(fault)
        raise RecipeError(f"{where}: {fact}. Correct the argument.") from error
