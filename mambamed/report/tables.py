"""A table as plain data, and as CSV, Markdown and LaTeX files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambamed.io.atomic import write_text
from mambamed.io.tables import write_csv

_LATEX = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Headers and rows of text; the first column holds names, and `notes` are printed below, one per line."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def shown(value: float) -> str:
    """A number with four significant digits, "-" for NaN.

    >>> shown(0.876543), shown(12.3456), shown(float("nan")), shown(0.0)
    ('0.8765', '12.35', '-', '0')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.4g}"


def shown_interval(interval: tuple[float, float]) -> str:
    """An interval, "-" for NaN."""
    low, high = interval
    return "-" if math.isnan(low) else f"{shown(low)} to {shown(high)}"


def paper_table(
    title: str,
    regions: Sequence[str],
    blocks: Mapping[str, str],
    methods: Mapping[str, Mapping[tuple[str, str], float]],
    notes: Sequence[str] = (),
) -> Table:
    """A table in the layout of papers: one row per method, one block of columns per metric.

    Args:
        regions: the columns of a block, followed by their average.
        blocks: metric -> heading of its columns, e.g. "Dice %".
        methods: name -> (metric, region) -> mean; a missing mean is shown as "-". A missing average is
            computed from the regions, if all of them are given.
    """
    headers = ["method"]
    for heading in blocks.values():
        headers += [f"{heading} {region}" for region in (*regions, "Average")]
    rows = []
    for method, means in methods.items():
        row = [method]
        for metric in blocks:
            values = [means.get((metric, region), math.nan) for region in regions]
            average = means.get((metric, "Average"), sum(values) / len(values))
            row += ["-" if math.isnan(value) else f"{value:.2f}" for value in (*values, average)]
        rows.append(row)
    return Table(title, headers, rows, notes)


def text_lines(table: Table) -> list[str]:
    """The table as lines for a log: title, headings and rows in columns.

    >>> text_lines(Table("2 cases", ["region", "Dice"], [["liver", "0.9"]]))
    ['2 cases', 'region | Dice', 'liver  | 0.9']
    """
    lines = [table.headers, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[f"{c:{w}}" for c, w in zip(line, widths, strict=True)] for line in lines]
    return [table.title, *(" | ".join(line).rstrip() for line in cells)]


def write_table(stem: Path, table: Table) -> list[Path]:
    """Write a table as `.csv`, `.md` and `.tex`; returns the paths."""
    csv, markdown, latex = (stem.with_name(stem.name + suffix) for suffix in (".csv", ".md", ".tex"))
    write_csv(csv, table.headers, table.rows)
    write_text(markdown, to_markdown(table))
    write_text(latex, to_latex(table))
    return [csv, markdown, latex]


def to_markdown(table: Table) -> str:
    """The table in GitHub-flavored Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---", *["---:"] * (len(table.headers) - 1)]
    lines = [f"**{table.title}**", "", line(table.headers), line(rule), *(line(row) for row in table.rows)]
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX `table` for the booktabs package."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    caption = " ".join([f"{table.title}.", *table.notes]).translate(_LATEX)
    columns = "l" + "r" * (len(table.headers) - 1)
    begin = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    rows = [line(table.headers), r"\midrule", *map(line, table.rows), r"\bottomrule"]
    return "\n".join([*begin, *rows, r"\end{tabular}", r"\end{table}", ""])
