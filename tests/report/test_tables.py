"""Tables as text, and as files for papers."""

import math

import pytest

from mambamed.report.plots import distribution_plot
from mambamed.report.tables import Table, paper_table, to_latex, to_markdown, write_table


def test_a_paper_table_averages_what_is_not_reported_and_leaves_gaps() -> None:
    table = paper_table(
        "t",
        ["WT", "ET"],
        {"dice": "Dice %", "hd95": "HD95"},
        {
            "ours": {("dice", "WT"): 90.0, ("dice", "ET"): 80.0, ("hd95", "WT"): 3.0},
            "theirs": {("dice", "Average"): 84.5},
        },
    )
    assert table.headers == [
        "method",
        "Dice % WT",
        "Dice % ET",
        "Dice % Average",
        "HD95 WT",
        "HD95 ET",
        "HD95 Average",
    ]
    assert table.rows[0] == ["ours", "90.00", "80.00", "85.00", "3.00", "-", "-"]
    assert table.rows[1] == ["theirs", "-", "-", "84.50", "-", "-", "-"]


def test_signs_of_latex_and_markdown_are_escaped_and_the_files_lie_beside_each_other(tmp_path) -> None:
    table = Table("50 % of a_b", ["x|y", "n & m"], [["=SUM(A1)", "1 ± 2"]], ["note"])
    assert r"\caption{50 \% of a\_b. note}" in to_latex(table)
    assert r"x|y & n \& m \\" in to_latex(table)
    assert r"=SUM(A1) & 1 $\pm$ 2 \\" in to_latex(table)
    assert r"| x\|y | n & m |" in to_markdown(table)
    paths = write_table(tmp_path / "table_brats", table)
    assert [path.name for path in paths] == ["table_brats.csv", "table_brats.md", "table_brats.tex"]
    assert "'=SUM(A1)" in paths[0].read_text()  # a spreadsheet must not run it


@pytest.mark.parametrize(
    "values", [[], [0.5], [math.nan], [math.inf], [0.2, 0.9, math.inf], [1e-9, 1e9], [3.0, 3.0]]
)
@pytest.mark.parametrize("higher", [True, False])
def test_a_plot_is_drawn_of_whatever_there_is(values, higher) -> None:
    from xml.etree import ElementTree

    pairs = [(f"case {k}", value) for k, value in enumerate(values)]
    svg = ElementTree.fromstring(distribution_plot("Dice", "mm", {"WT": pairs}, higher))
    dots = [node for node in svg.iter() if node.tag == "circle"]
    assert len(dots) == sum(not math.isnan(value) for value in values)
    width = float(svg.attrib["viewBox"].split()[2])
    assert all(0 <= float(dot.attrib["cx"]) <= width for dot in dots)
    ticks = [node for node in svg.iter() if node.tag == "line" and node.attrib["class"] == "grid"]
    assert 3 <= len(ticks) <= 12
