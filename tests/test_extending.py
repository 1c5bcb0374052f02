"""docs/extending.md, executed: its blocks are applied to a copy of the package, and its checks run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
# Number of files of the package that an example creates or changes.
FILES = {"A network": 2, "A converter": 2, "A metric": 2, "A loss": 3, "A task": 11}


def add_lines(file: Path, diff: str) -> None:
    """Insert the lines with "+" after the line above them, which occurs once in the file."""
    text = file.read_text()
    for context, added in re.findall(r"^([^+\n].*\n)((?:^\+.*\n)+)", diff, re.MULTILINE):
        assert text.count(context) == 1, f"{file.name}: {context}"
        text = text.replace(context, context + re.sub(r"^\+", "", added, flags=re.MULTILINE))
    file.write_text(text)


def apply(section: str, root: Path) -> tuple[set[str], list[str]]:
    """Apply a section to a copy; return the files it touched and its checks."""
    touched, checks = set(), []
    for before, kind, body in re.findall(
        r"((?:^[^\n]+\n)*)\n```(\w+)\n(.*?)```", section, re.MULTILINE | re.DOTALL
    ):
        named = re.findall(r"`(mambamed/[\w/]+\.py)`", before)
        if kind == "python" and "Check it" in before:
            checks.append(body)
        elif kind == "python":
            assert not (root / named[-1]).exists()
            (root / named[-1]).write_text(body)
            touched.add(named[-1])
        elif kind == "diff":
            add_lines(root / named[0], body)
            touched.add(named[0])
    return touched, checks


@pytest.mark.parametrize("name", FILES)
def test_an_example_works_and_changes_few_files(name, tmp_path) -> None:
    shutil.copytree(ROOT / "mambamed", tmp_path / "mambamed")  # with the caches of numba
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    touched, checks = apply(SECTIONS[name], tmp_path)
    assert len(touched) == FILES[name]
    assert checks
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for check in checks:
        code = f"import mambamed; assert mambamed.__file__.startswith({str(tmp_path)!r})\n{check}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_section_is_executed() -> None:
    assert set(SECTIONS) == set(FILES)
