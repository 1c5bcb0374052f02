"""Manifests and tables of the list of faults, and what of them is shown in reports and tables.

Broken, doubled and hostile `dataset.json` are in test_names_and_folders.py.
"""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser

import pytest

from tests.faults.fault_files import LABEL, VOXELS, packed
from tests.faults.in_process import call

NOSE = "84,-120,-60"  # mm, RAS+, inside the image
PREPARE = ("--spacing", "keep", "--skip-faulty", "--no-qc", "--workers", "1", "-q", "--json")
EVIL = "<script>alert(1)<script>"  # no slash: a file name


def landmark_set(folder, table: str):
    """Images good_0 to good_2 and CASE; the nose of the first three in a table, and what else is given."""
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(["good_0", "good_1", "good_2", "CASE"]):
        (folder / "images" / f"{name}.nii.gz").write_bytes(packed(VOXELS + number))
    rows = "".join(f"good_{number},nose,{NOSE}\n" for number in range(3))
    (folder / "points.csv").write_text(f"case,landmark,x,y,z\n{rows}{table}")
    return folder


def prepared_cases(folder) -> set[str]:
    return {case["id"] for case in json.loads((folder / "dataset.json").read_text())["cases"]}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("CASE,nose,500,-110,-60\n", ("CASE", "nose", "outside")),
        ("CASE,nose,nan,-110,-60\n", ("CASE", "nose", "Leave out the position")),
        (f"CASE,nose,{NOSE}\nGHOST,nose,{NOSE}\n", ("GHOST", "0 of 1 images")),
    ],
)
def test_a_landmark_that_cannot_be_is_the_fault_of_its_case_alone(tmp_path, table, words) -> None:
    raw = landmark_set(tmp_path / "raw", table)
    done = call("prepare", raw, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 3 and done.line_with(*words)
    assert prepared_cases(tmp_path / "out") >= {"good_0", "good_1", "good_2"}


def test_a_decimal_comma_in_the_file_of_a_case_is_the_fault_of_that_case(tmp_path) -> None:
    raw = landmark_set(tmp_path / "raw", "")
    (raw / "points.csv").unlink()
    (raw / "landmarks").mkdir()
    for number in range(3):
        (raw / "landmarks" / f"good_{number}.csv").write_text(f"landmark,x,y,z\nnose,{NOSE}\n")
    (raw / "landmarks" / "CASE.csv").write_text("landmark;x;y;z\nnose;1,5;2;3\n")
    done = call("prepare", raw, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 3 and "Use decimal points, not commas" in done.line_with("CASE", "1,5")
    assert prepared_cases(tmp_path / "out") == {"good_0", "good_1", "good_2"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (f"CASE,nose,{NOSE}\nCASE,nose,{NOSE}\n", ("points.csv", "duplicate", "nose")),
        ("CASE,nose,1,5,2,3\n", ("points.csv", "1,5", "decimal")),
        ("CASE,nose,1;5,2,3\n", ("points.csv", "CASE", "1;5")),
    ],
)
def test_a_table_that_cannot_be_read_stops_everything(tmp_path, table, words) -> None:
    raw = landmark_set(tmp_path / "raw", table)
    done = call("prepare", raw, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 2 and done.line_with(*words) and not (tmp_path / "out").exists()


def class_list(folder, rows: list[str]):
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        (folder / f"i{number}.nii.gz").write_bytes(packed(VOXELS + number))
        rows[number] = f"{row.partition('|')[0]},i{number}.nii.gz,{row.partition('|')[2]}"
    (folder / "cases.csv").write_text("\n".join(["case,T1,class", *rows, ""]))
    return folder / "cases.csv"


GOOD = ["a|ill", "b|well", "c|ill", "d|well", "e|ill", "f|well"]


def test_a_case_without_a_class_is_left_out_with_its_name(tmp_path) -> None:
    table = class_list(tmp_path / "raw", [*GOOD, "CASE|"])
    done = call("prepare", table, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 3 and "no class" in done.line_with("CASE")
    assert prepared_cases(tmp_path / "out") == set("abcdef")


def test_one_class_alone_stops_everything(tmp_path) -> None:
    table = class_list(tmp_path / "raw", ["a|ill", "b|ill", "c|ill"])
    done = call("prepare", table, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 2 and done.line_with("class ill", "Add cases of a second class")


def test_an_id_that_a_spreadsheet_would_run_is_refused_and_is_in_no_table_as_it_was(tmp_path) -> None:
    table = class_list(tmp_path / "raw", [*GOOD, '"=HYPERLINK(""evil"")"|ill'])
    done = call("prepare", table, "-o", tmp_path / "out", *PREPARE)
    assert done.code == 3 and "Rename" in done.line_with("HYPERLINK")
    assert prepared_cases(tmp_path / "out") == set("abcdef")


class Elements(HTMLParser):
    """Every tag of a page with its attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.sources: list[str | None] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.sources += [value for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data) -> None:
        self.text += data


@pytest.mark.parametrize("name", [EVIL, '"><img src=x onerror=alert(1)>', "a' onmouseover='alert(1)", "-1+1"])
def test_a_report_shows_a_hostile_case_as_text_and_no_cell_of_a_table_is_run(tmp_path, name) -> None:
    masks = [tmp_path / "predictions", tmp_path / "references"]
    for folder in masks:
        folder.mkdir()
        (folder / f"{name}.nii.gz").write_bytes(packed(LABEL))
        (folder / "plain.nii.gz").write_bytes(packed(LABEL))
    (masks[0] / f"{name} too.nii.gz").write_bytes(packed(LABEL[1:]))
    (masks[1] / f"{name} too.nii.gz").write_bytes(packed(LABEL))
    done = call("evaluate", *masks, "-o", tmp_path / "out", "-q", "--regions", f"{name[:4]}x=1,two=2")
    assert done.code == 3 and done.line_with(f"{name} too", "shape")
    pages = list((tmp_path / "out").rglob("*.html"))
    assert pages
    for path in pages:
        page = Elements(path.read_text())
        assert name in page.text
        assert page.tags.count("script") == 1  # the page's own
        assert all((source or "").startswith("data:image/png;") for source in page.sources)
        assert not [each for each in page.attributes if each.startswith("on")]
    for path in (tmp_path / "out").rglob("*.csv"):
        for row in csv.reader(path.read_text().splitlines()):
            assert not [
                cell for cell in row if cell[:1] in {"=", "+", "@"} or cell.startswith(name[:1] + "1+")
            ]


def test_the_sheet_of_a_preparation_shows_a_hostile_case_as_text(tmp_path) -> None:
    rows = [*GOOD, f"{EVIL}|ill"]
    table = class_list(tmp_path / "raw", rows)
    quick = [each for each in PREPARE if each != "--no-qc"]
    assert call("prepare", table, "-o", tmp_path / "out", *quick).code == 0
    page = Elements((tmp_path / "out" / "qc" / "index.html").read_text())
    assert EVIL in page.text and "script" not in page.tags
