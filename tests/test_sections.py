"""`benchmarks/sections.py`: rows of a table in a page are replaced, and the rest of the page stays."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sections import replace_rows

PAGE = """Before.

<!-- speed: written by benchmarks/speed.py -->
| network | ms |
|---|---|
| b | 2 |
| c | 3 |
<!-- speed: end -->

| network | ms |
| c | another table |
"""


def test_measured_rows_replace_old_ones_in_the_order_of_the_names(tmp_path: Path) -> None:
    page, header = tmp_path / "page.md", ["| network | ms |", "|---|---|"]
    page.write_text(PAGE)
    replace_rows(page, "speed", "speed.py", header, ["| c | 30 |", "| a | 10 |"], ["a", "b", "c"])
    assert page.read_text() == PAGE.replace("| b | 2 |\n| c | 3 |", "| a | 10 |\n| b | 2 |\n| c | 30 |")
