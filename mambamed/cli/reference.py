"""The command reference as Markdown, from the commands' own signatures.

python -m mambamed.cli.reference > docs/commands.md
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

from typer.models import ArgumentInfo

from mambamed.cli.commands import app, recipes


def reference() -> str:
    """Every command with its arguments, options, defaults and help."""
    head = "# Commands\n\nMade by `python -m mambamed.cli.reference`; a test keeps it true.\n\n"
    return head + "\n".join(_section(name, callback) for name, callback in _commands())


def _commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    for prefix, group in (("mambamed", app), ("mambamed recipes", recipes)):
        for info in group.registered_commands:
            assert info.callback is not None
            yield f"{prefix} {info.name or info.callback.__name__}", info.callback


def _section(name: str, callback: Callable[..., Any]) -> str:
    rows = [_row(parameter) for parameter in inspect.signature(callback).parameters.values()]
    table = ["| argument or option | default | |", "|---|---|---|", *rows]
    return "\n".join([f"## {name}\n", f"{inspect.getdoc(callback)}\n", *table, ""])


def _row(parameter: inspect.Parameter) -> str:
    kind, info = get_args(parameter.annotation)
    if isinstance(info, ArgumentInfo):
        name = parameter.name.upper()
    else:
        # Within Annotated, Typer keeps the first declared name where the default would stand.
        declared = [d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)]
        name = ", ".join(declared or [f"--{parameter.name.replace('_', '-')}"])
    choices = [c for k in (kind, *get_args(kind)) if get_origin(k) is Literal for c in get_args(k)]
    shown = f"`{name}`" + (f" {', '.join(map(str, choices))}" if choices else "")
    needed = parameter.default is inspect.Parameter.empty
    default = "needed" if needed else "" if parameter.default in (None, False) else f"`{parameter.default}`"
    return f"| {shown} | {default} | {info.help or ''} |"


if __name__ == "__main__":
    print(reference(), end="")
