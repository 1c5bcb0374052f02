"""The table of commands: the functions of `mambamed.api`, and how their results are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mambamed import __version__, api
from mambamed.cli.command import command
from mambamed.terminal import printable

app = typer.Typer(
    help="3D medical imaging with Mamba networks: segmentation, landmarks and classification.",
    epilog="Start with 'mambamed demo'. Exit codes: 0 done, 1 failed, 2 invalid usage, 3 some cases failed.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)
app.add_typer(recipes, name="recipes")


def run_app(app: typer.Typer) -> None:
    """Run the command line and exit; faults of its usage repeat arguments, which may be names of files."""
    try:
        code = app(prog_name="mambamed", standalone_mode=False)
    except Exception as error:
        if (describe := getattr(error, "format_message", None)) is None:
            raise
        from typer.rich_utils import rich_format_error

        shown: Any = error
        shown.format_message = lambda: printable(describe())
        rich_format_error(shown)
        code = shown.exit_code
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


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_COMMANDS = (
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
for _each in _COMMANDS:
    app.command(_each.__name__.replace("_", "-"))(command(_each, _shown(_each.__name__)))
for _each in (api.recipes_list, api.recipes_show, api.recipes_check, api.recipes_schema):
    recipes.command(_each.__name__.removeprefix("recipes_"))(command(_each, _shown(_each.__name__)))
