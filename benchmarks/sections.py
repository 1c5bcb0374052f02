"""Each benchmark's part of `docs/benchmarks.md`, between its marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def replace_section(file: Path, key: str, script: str, lines: Sequence[str]) -> None:
    """Put `lines` where the section `key` is, or at the end.

    Args:
        file: a Markdown page; made where it is not there.
        key: name of the section, alone of its kind in the page.
        script: name of the benchmark that writes it.
        lines: its content, the heading first.
    """
    begin, end = f"<!-- {key}: written by benchmarks/{script} -->", f"<!-- {key}: end -->"
    section = "\n".join([begin, *lines, end])
    text = file.read_text(encoding="utf-8") if file.is_file() else "# Benchmarks\n"
    if begin in text and end in text:
        text = text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    file.write_text(text, encoding="utf-8")
