"""The table of commands: the functions of `mambamed.api`, and how their results are printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import typer

from mambamed import __version__, api
from mambamed.arguments import described
from mambamed.cli.command import command
from mambamed.cli.json_output import print_fault
from mambamed.cli.options import one_value_each, typed
from mambamed.terminal import printable


def make_app(words: Collection[str] | None = None) -> typer.Typer:
    """The command line.

    Args:
        words: the arguments of this call. A command that they do not name gets its help, but no parameters,
            so that the list of commands appears quickly (default: all parameters of all commands).
    """
    app = typer.Typer(
        help="3D medical imaging with Mamba networks: segmentation, landmarks and classification.",
        epilog="Start with 'mambamed demo'. "
        "Exit codes: 0 done, 1 failed, 2 invalid usage, 3 some cases failed.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    recipes = typer.Typer(help="List, make, show and check recipes.", no_args_is_help=True)
    app.add_typer(recipes, name="recipes")
    app.callback()(_global)
    app.command("help")(_help)
    for group, table in ((app, _COMMANDS), (recipes, _RECIPES)):
        for function, arguments in table.items():
            name = function.__name__.removeprefix("recipes_").replace("_", "-")
            if words is None or name in words:
                group.command(name)(command(typed(function, arguments), _shown(function.__name__)))
            else:
                group.command(name, help=described(function, api.predict)[0])(_not_called)
    return app


def run_app(arguments: Sequence[str]) -> None:
    """Run the command line and exit; faults of its usage repeat arguments, which may be names of files."""
    is_completion = any(name.startswith("_MAMBAMED_") for name in os.environ)
    app = make_app(None if is_completion else arguments)
    try:
        code = app(one_value_each(arguments), prog_name="mambamed", standalone_mode=False)
    except Exception as error:
        if (describe := getattr(error, "format_message", None)) is None:
            raise
        from typer.rich_utils import rich_format_error

        shown: Any = error
        shown.format_message = lambda: printable(describe())
        rich_format_error(shown)
        code = shown.exit_code
        if "--json-lines" in arguments:
            print_fault("UsageError", describe(), code, "lines")
        elif "--json" in arguments:
            print_fault("UsageError", describe(), code, "json")
    sys.exit(code)


def _shown(name: str) -> Callable[[Any], None]:
    """The function of `cli.show` that prints a result; it is imported on first use."""

    def show(result: Any) -> None:
        from mambamed.cli import show

        getattr(show, name)(result)

    return show


def _version(asked: bool) -> None:
    if asked:
        print(f"mambamed {__version__}")
        raise typer.Exit


def _not_called() -> None:
    pass


def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _help(
    command: Annotated[list[str] | None, typer.Argument(help="Command, e.g. train, or recipes show.")] = None,
) -> None:
    """Show the help of a command."""
    words = command or []
    make_app(words)([*words, "--help"], prog_name="mambamed", standalone_mode=False)


# Commands, and how many of their parameters are arguments; the others are options.
_COMMANDS = {
    api.prepare: 1,
    api.train: 1,
    api.extend: 1,
    api.runs: 1,
    api.jobs: 1,
    api.export: 1,
    api.predict: 2,
    api.landmarks: 2,
    api.classify: 2,
    api.bids: 3,
    api.evaluate: 2,
    api.compare: 1,
    api.view: 1,
    api.study: 1,
    api.best: 1,
    api.convert_points: 1,
    api.import_weights: 1,
    api.demo: 0,
    api.doctor: 1,
    api.schema: 1,
}
_RECIPES = {
    api.recipes_list: 0,
    api.recipes_new: 0,
    api.recipes_show: 1,
    api.recipes_check: 1,
    api.recipes_schema: 0,
}
