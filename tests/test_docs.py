"""Documentation is executed: its commands parse, its recipes load, the reference is up to date."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mambamed.cli.commands import make_app
from mambamed.cli.reference import reference
from mambamed.recipe import load_recipe, shipped_recipes
from tests.answers.stubs import stub_run, write_blobs

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
    command = typer.main.get_command(make_app())
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
    if isinstance(recipe, str) and f"recipes new -d prepared/mine -o {recipe}" not in " ".join(
        each for name, each in ALL if name == page
    ):
        assert load_recipe(recipe, parameters.get("set") or ()).name


def test_every_recipe_says_its_command() -> None:
    for name, file in shipped_recipes().items():
        assert commands_of(file), f"{name}: the header names no command"


def test_the_commands_of_the_script_are_documented_and_used() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "```sh\nsh run demo\n```" in readme
    assert "```sh\nsh run test\n```" in readme
    assert "`sh run check`" in readme
    ci = (ROOT / ".ci" / "run").read_text()
    assert "sh run check" in ci and "sh run test" in ci


@pytest.mark.parametrize("page", ["README.md", "docs/scan.md"])
def test_python_examples_run(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stub_run(tmp_path / "runs" / "brats_nnmamba")
    write_blobs(tmp_path / "new_patients", 1)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    if page == "README.md":
        assert (tmp_path / "predictions" / "new_patients" / "case_0.nii.gz").is_file()


def test_the_architecture_page_lists_the_layers_and_tables() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page.partition("## The path")[0], re.MULTILINE)
    layers = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert layers is not None
    assert [set(re.findall(r"\w+", line)) for line in listed] == [
        set(re.findall(r"\w+", line)) for line in layers[1].splitlines()
    ]
    tables = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| `([\w/.]+)` \|", page, re.MULTILINE)
    assert len(tables) >= 6
    for names, file in tables:
        for table in re.findall(r"[A-Z_]+", names):
            assert re.search(rf"^{table}\b.* = ", (ROOT / file).read_text(), re.MULTILINE), table


def test_every_link_between_pages_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    ]
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_command_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == reference(), "run: python -m mambamed.cli.reference > docs/commands.md"


def test_no_page_names_a_path_of_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|root|Users|tmp)/", page.read_text()), page


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/scan.md", "docs/networks.md", "docs/architecture.md"])
def test_every_path_that_a_page_names_exists(page) -> None:
    text = (ROOT / page).read_text()
    for path in re.findall(r"(?:tests|mambamed|benchmarks)/[a-z][\w/]*(?:\.py)?", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / "faults" / name).is_file(), name
