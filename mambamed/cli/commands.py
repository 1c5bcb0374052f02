"""The table of commands: every verb of `mambamed.api`, and how its result is shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mambamed import __version__, api
from mambamed.cli.command import command

app = typer.Typer(
    help="3D medical imaging on Mamba networks, from one kind of recipe.",
    epilog="Begin with 'mambamed demo'. Exit codes: 0 done, 1 failed at work, 2 usage, 3 some cases failed.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="The shipped recipes, and yours.", no_args_is_help=True)
app.add_typer(recipes, name="recipes")


def run_app(app: typer.Typer) -> None:
    """Run the command line; output in UTF-8 whatever the terminal's code page."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    app(prog_name="mambamed")


def _shown(name: str) -> Callable[[Any], None]:
    """The function of `cli.show` that prints a result, imported at first use."""

    def show(result: Any) -> None:
        from mambamed.cli import show

        getattr(show, name)(result)

    return show


def _version(asked: bool) -> None:
    if asked:
        print(f"mambamed {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_VERBS = (
    api.prepare,
    api.train,
    api.extend,
    api.runs,
    api.export,
    api.predict,
    api.landmarks,
    api.classify,
    api.evaluate,
    api.compare,
    api.convert_points,
    api.import_weights,
    api.demo,
    api.doctor,
)
for _verb in _VERBS:
    app.command(_verb.__name__.replace("_", "-"))(command(_verb, _shown(_verb.__name__)))
for _verb in (api.recipes_list, api.recipes_show, api.recipes_check, api.recipes_schema):
    recipes.command(_verb.__name__.removeprefix("recipes_"))(command(_verb, _shown(_verb.__name__)))
