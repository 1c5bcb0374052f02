"""Documentation is executed: its commands parse, its recipes load, the reference is up to date."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mambamed.cli.commands import app
from mambamed.cli.reference import reference
from mambamed.recipe import load_recipe, shipped_recipes

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
]


def commands_of(page: Path) -> list[str]:
    """The `mambamed ...` lines of code blocks (Markdown) or of the header (recipe)."""
    text = page.read_text()
    if page.suffix == ".yaml":
        return re.findall(r"^#\s+(mambamed .+)$", text, re.MULTILINE)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return re.findall(r"^(?:\$ )?(mambamed .+)$", "\n".join(blocks), re.MULTILINE)


ALL = [(page.name, line) for page in PAGES for line in commands_of(page)]


def parse(line: str) -> dict:
    """Parse as the command line would, without running the command."""
    words = shlex.split(line.replace("…", "x"), comments=True)[1:]
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"no such command: {line}"
    with command.make_context("mambamed", words) as context:
        return context.params


def test_the_readme_holds_commands() -> None:
    assert len(commands_of(ROOT / "README.md")) >= 6


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_documented_command_parses(page, line) -> None:
    parameters = parse(line)
    recipe = parameters.get("recipe")
    if isinstance(recipe, str):
        assert load_recipe(recipe, parameters.get("set") or ()).name


def test_every_recipe_says_its_command() -> None:
    for name, file in shipped_recipes().items():
        assert commands_of(file), f"{name}: the header names no command"


def test_the_scripts_two_commands_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "```sh\nsh run demo\n```" in readme
    assert "```sh\nsh run test\n```" in readme
    assert "sh run test" in (ROOT / ".ci" / "run").read_text()


def test_the_command_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == reference(), "run: python -m mambamed.cli.reference > docs/commands.md"


def test_no_page_names_a_path_of_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|root|Users|tmp)/", page.read_text()), page


def test_every_promise_of_security_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for path in re.findall(r"tests/[\w/]+(?:\.py)?", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / "faults" / name).is_file(), name
