"""Each benchmark's part of a page of `docs`, between its marks."""

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
    begin, end = _marks(key, script)
    section = "\n".join([begin, *lines, end])
    text = file.read_text(encoding="utf-8") if file.is_file() else "# Benchmarks\n"
    if begin in text and end in text:
        text = text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    file.write_text(text, encoding="utf-8")


def replace_rows(
    file: Path, key: str, script: str, header: Sequence[str], rows: Sequence[str], order: Sequence[str]
) -> None:
    """Put `rows` into the table that is the section `key`; its other rows stay.

    Args:
        file, key, script: as of `replace_section`.
        header: the first two lines of the table.
        rows: lines of Markdown, e.g. "| name | 1 |".
        order: names, the first cells, in the order of the rows; rows with other names are left out.
    """
    begin, end = _marks(key, script)
    old = file.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].splitlines()
    named = {row.split("|")[1].strip(): row for row in (*old, *rows) if row.startswith("|")}
    replace_section(file, key, script, [*header, *(named[name] for name in order if name in named)])


def _marks(key: str, script: str) -> tuple[str, str]:
    return f"<!-- {key}: written by benchmarks/{script} -->", f"<!-- {key}: end -->"
