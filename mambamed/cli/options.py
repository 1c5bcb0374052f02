"""Typer's arguments and options, from the signature and the docstring of a function of `mambamed.api`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from typer import Argument, Option

from mambamed import api
from mambamed.arguments import check_ranges, described

_SHORT = {
    "output": ("-o", "--output"),
    "data": ("-d", "--data"),
    "fold": ("-f", "--fold"),
    # as other BIDS Apps call them
    "participant_label": ("--participant-label", "--participant_label"),
    "session_label": ("--session-label", "--session_label"),
    "skip_bids_validation": ("--skip-bids-validation", "--skip_bids_validation"),
}


_SEVERAL = (*_SHORT["participant_label"], *_SHORT["session_label"])


def one_value_each(words: Sequence[str]) -> list[str]:
    """Arguments in which options of BIDS Apps that take several values are repeated, as Typer expects.

    >>> one_value_each(["bids", "in", "out", "participant", "--session-label", "a", "b", "--model", "m"])[4:]
    ['--session-label', 'a', '--session-label', 'b', '--model', 'm']
    """
    found: list[str] = []
    option, values = "", 0
    for word in words:
        if word.startswith("-"):
            option, values = (word if words[0] == "bids" and word in _SEVERAL else ""), 0
        elif option:
            found += [option] if values else []
            values += 1
        found.append(word)
    return found


def typed(function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    """The function with Typer's annotations; parameters it does not describe are described in `api.predict`.

    Args:
        arguments: number of leading parameters that are arguments of the command; the others are options.
    """
    text, helps = described(function, api.predict)
    signature, scope = inspect.signature(function), dict(vars(api))
    parameters = []
    for number, (name, parameter) in enumerate(signature.parameters.items()):
        if name != "progress":
            kind = eval(parameter.annotation, scope)
            flag = f"--{name.replace('_', '-')}"
            names = _SHORT.get(name, (flag,) if kind is bool and not parameter.default else ())
            more: dict[str, Any] = {"help": helps[name]}
            if name == "recipe":
                more["autocompletion"] = _recipes_from
            info = Argument(**more) if number < arguments else Option(*names, **more)
            parameter = parameter.replace(annotation=Annotated[kind, info])
        parameters.append(parameter)

    def run(**given: Any) -> Any:
        check_ranges(given, lambda name: f"--{name.replace('_', '-')}")
        return function(**given)

    run.__name__, run.__doc__, run.__module__ = function.__name__, text, function.__module__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _recipes_from(incomplete: str) -> list[str]:
    """For completion in a shell: the shipped recipes that begin with this; then the shell adds files."""
    from mambamed.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]
