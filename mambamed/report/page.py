"""`report.html`: one file that needs no network.

Texts from outside (names of cases, regions, files) are escaped; a content security policy forbids loading
anything and running any script except the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path

from mambamed.io.atomic import write_text
from mambamed.report.plots import distribution_plot, roc_plot
from mambamed.report.tables import Table, shown

_FAULTS_SHOWN = 5  # the others are folded
_TALL = 20  # rows; a longer table scrolls
_LONG = 40  # characters; the cells of a column with longer ones are broken into lines


@dataclass(frozen=True)
class Distribution:
    """One metric over the cases; `groups` is region -> pairs of case and value."""

    title: str
    unit: str
    higher_is_better: bool
    groups: Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class WorstCase:
    """A case shown as a picture."""

    case: str
    reason: str  # why it is shown, e.g. "ET Dice 0.31"
    picture: bytes | None  # .png of three planes; None if it could not be drawn


@dataclass(frozen=True)
class Page:
    """Contents of the report."""

    title: str
    lead: str  # what was compared with what
    summary: Table
    distributions: Sequence[Distribution]  # one plot each
    worst: Sequence[WorstCase]  # cases shown as pictures, the worst first
    # case_headers, case_rows: the sortable table; numbers as numbers
    case_headers: Sequence[str]
    case_rows: Sequence[Sequence[str | float | int | None]]
    settings: Mapping[str, object]  # name -> value: conventions, versions
    faults: Sequence[str] = ()  # cases that could not be scored, one line each
    # name -> false and true positive rates
    roc: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    tables: Sequence[Table] = ()  # further tables, under their titles


def write_page(path: Path, page: Page) -> None:
    """Write the report, atomically."""
    write_text(path, render_page(page))


def render_page(page: Page) -> str:
    """The report as HTML."""
    body = [
        faults_html("Not scored", page.faults),
        section("Summary", table_html(page.summary)),
        section("ROC curve", roc_plot(page.roc)) if page.roc else "",
        *(section(table.title, table_html(table, captioned=False)) for table in page.tables),
        section("Distributions", "".join(_distribution(d) for d in page.distributions)),
        section("Worst cases", "".join(_worst(case) for case in page.worst)) if page.worst else "",
        section("Cases", _case_table(page.case_headers, page.case_rows)),
        section("Settings", settings_html(page.settings)),
    ]
    return document(page.title, page.lead, body)


def document(title: str, lead: str, sections: Sequence[str]) -> str:
    """A whole page of sections that are HTML; the title and the line below it are text."""
    folder = resources.files("mambamed.report")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    )
    header = f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{header}{''.join(sections)}</main><script>{script}</script></body></html>\n"
    )


def served_policy() -> str:
    """The content security policy with which a report is served: it runs no script but the page's own."""
    script = resources.files("mambamed.report").joinpath("page.js").read_text("utf-8")
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def section(title: str, body: str) -> str:
    """A section of `document`; the title is text."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"


def faults_html(title: str, faults: Sequence[str]) -> str:
    """A section with lines of text, the first ones in view; nothing without any."""
    if not faults:
        return ""
    lines = [f"<li>{escape(fault)}</li>" for fault in faults]
    shown, more = "".join(lines[:_FAULTS_SHOWN]), "".join(lines[_FAULTS_SHOWN:])
    count = len(faults) - _FAULTS_SHOWN
    details = f"<details><summary>{count} more</summary><ul>{more}</ul></details>" if more else ""
    heading = f"<h2>{escape(title)}: {len(faults)}</h2>"
    return f'<section class="faults">{heading}<ul>{shown}</ul>{details}</section>\n'


def picture_html(png: bytes, described: str) -> str:
    """A picture within the page; the description is text."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" loading="lazy" alt="{escape(described)}">'


def table_html(table: Table, captioned: bool = True) -> str:
    """A table with its notes below."""
    width = max(map(len, (table.headers, *table.rows)))
    longest = [max((len(row[at]) for row in table.rows if at < len(row)), default=0) for at in range(width)]
    kinds = [' class="long"' * (length > _LONG) for length in longest]
    head = "".join(f'<th scope="col"{kinds[at]}>{escape(cell)}</th>' for at, cell in enumerate(table.headers))
    rows = "".join(
        f'<tr><th scope="row"{kinds[0]}>{escape(row[0])}</th>'
        + "".join(f"<td{kinds[at]}>{escape(cell)}</td>" for at, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>" if captioned else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<div class="scroll{" tall" * (len(table.rows) > _TALL)}"><table class="summary">{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )


def _distribution(d: Distribution) -> str:
    plot = distribution_plot(d.title, d.unit, d.groups, d.higher_is_better)
    better = "higher is better" if d.higher_is_better else "lower is better"
    return f"<figure><figcaption>{escape(d.title)}, {better}</figcaption>{plot}</figure>"


def _worst(worst: WorstCase) -> str:
    if worst.picture is None:
        picture = '<p class="note">no image to show</p>'
    else:
        described = f"{worst.case}: three planes, reference and prediction outlined"
        picture = picture_html(worst.picture, described)
    return (
        f'<figure class="worst"><figcaption><b>{escape(worst.case)}</b> {escape(worst.reason)}</figcaption>'
        f"{picture}</figure>"
    )


def _case_table(headers: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(h)}</button></th>' for h in headers
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    infinite = any(isinstance(cell, float) and math.isinf(cell) for row in rows for cell in row)
    note = " Infinite: one of the two masks is empty." if infinite else ""
    return (
        f'<p class="note">Click a heading to sort. An empty cell has no value.{note}</p>'
        f'<div class="scroll tall"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: str | float | int | None) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return '<td data-value=""></td>'
    if isinstance(cell, (int, float)):
        value = repr(float(cell)) if math.isfinite(cell) else ("1e999" if cell > 0 else "-1e999")
        text = str(cell) if isinstance(cell, int) else shown(float(cell))
        return f'<td class="number" data-value="{value}">{text}</td>'
    return f'<td data-value="{escape(cell)}">{escape(cell)}</td>'


def settings_html(settings: Mapping[str, object]) -> str:
    """Names and values."""
    items = []
    for name, value in settings.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        items.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(items)}</dl>"
