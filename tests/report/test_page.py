"""The report page: what it holds, that nothing in it can run, and how it behaves in a real browser."""

import base64
import json
import re
import subprocess
from html.parser import HTMLParser

import pytest

from mambamed.report.page import Distribution, Page, WorstCase, render_page, table_html, write_page
from mambamed.report.tables import Table
from tests.viewer.browser import NAMES, find_browser

EVIL = '<img src=x onerror="alert(1)">'
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
BROWSER = find_browser()


def page() -> Page:
    rows = [
        ["case_2", "WT", 0.9, 4.0],
        ["case_10", EVIL, float("nan"), float("inf")],
        ["case_1", "ET", 0.25, 12.5],
    ]
    return Page(
        title=f"Evaluation of {EVIL}",
        lead=EVIL,
        summary=Table(EVIL, ["region", EVIL], [["WT", "0.9 ± 0.1"], [EVIL, "-"]], [EVIL]),
        distributions=[
            Distribution(
                "Dice", "", True, {"WT": [("case_2", 0.9), (EVIL, 0.5)], EVIL: [("c", float("nan"))]}
            ),
            Distribution("HD95", "mm", False, {"WT": [("case_2", 4.0), ("case_10", float("inf"))]}),
        ],
        worst=[WorstCase(EVIL, EVIL, PIXEL), WorstCase("case_1", "no picture", None)],
        case_headers=["case", "region", "dice", "hd95"],
        case_rows=rows,
        settings={"protocol": EVIL, "metrics": ["dice", EVIL]},
        faults=[EVIL],
    )


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


def test_everything_that_comes_from_outside_is_escaped() -> None:
    text = render_page(page())
    parsed = Parsed(text)
    assert EVIL not in text
    assert [a["src"][:22] for tag, a in parsed.tags if tag == "img"] == ["data:image/png;base64,"]
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_long_cells_are_broken_in_every_row_of_their_column_and_rows_may_differ_in_length() -> None:
    long = "x" * 41
    text = table_html(Table("t", ["a", "b"], [[long, "1"], ["y"], ["z", "2", long]]))
    assert '<tr><th scope="col" class="long">a</th><th scope="col">b</th></tr>' in text
    assert f'<tr><th scope="row" class="long">{long}</th><td>1</td></tr>' in text
    assert '<tr><th scope="row" class="long">y</th></tr>' in text
    assert f'<td>2</td><td class="long">{long}</td></tr>' in text
    assert '<th scope="col">b</th></tr></thead><tbody></tbody>' in table_html(Table("t", ["b"], []))


def test_the_page_needs_no_network_and_forbids_any() -> None:
    parsed = Parsed(render_page(page()))
    assert not [
        tag for tag, a in parsed.tags if tag in {"link", "iframe", "object"} or a.get("src", "d")[0] == "h"
    ]
    (policy,) = (a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_same_numbers_give_the_same_page_and_it_is_written_whole(tmp_path) -> None:
    write_page(tmp_path / "report.html", page())
    assert (tmp_path / "report.html").read_text() == render_page(page()) == render_page(page())


def test_undefined_values_are_empty_cells_and_infinite_ones_are_told() -> None:
    text = render_page(page())
    assert '<td data-value=""></td>' in text
    assert '<td class="number" data-value="1e999">inf</td>' in text
    assert 'class="dot infinite"' in text


@pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")
def test_in_a_browser_rows_sort_pictures_decode_and_the_policy_lets_our_script_run(tmp_path) -> None:
    text = render_page(page())
    # The probe is a second script: it gets its own entry in the policy, which stays in force.
    probe = """
    addEventListener("load", async () => {
      const rows = () => [...document.querySelectorAll(".sortable tbody tr")];
      const cases = () => rows().map((row) => row.cells[0].textContent);
      const click = (k) => document.querySelectorAll(".sortable button")[k].click();
      const told = { start: cases() };
      click(0); told.name = cases();
      click(2); told.dice = cases();
      click(2); told.dice_down = cases();
      click(3); told.hd95 = cases();
      const images = [...document.images];
      for (const image of images) { image.loading = "eager"; await image.decode(); }
      told.widths = images.map((image) => image.naturalWidth);
      told.alerts = document.querySelectorAll("[onerror]").length;
      document.title = JSON.stringify(told);
    });"""
    import hashlib

    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    text = text.replace("</body>", f"<script>{probe}</script></body>")
    (tmp_path / "probed.html").write_text(text)
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
            (tmp_path / "probed.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[:500]
    told = json.loads(title[1])
    assert told["start"] == ["case_2", "case_10", "case_1"]
    assert told["name"] == ["case_1", "case_2", "case_10"]  # 10 after 2: numbers within names count
    assert told["dice"] == ["case_1", "case_2", "case_10"]  # what is undefined comes last
    assert told["dice_down"] == ["case_2", "case_1", "case_10"]
    assert told["hd95"] == ["case_2", "case_1", "case_10"]  # infinity is the largest
    assert told["widths"] == [1]
    assert told["alerts"] == 0
