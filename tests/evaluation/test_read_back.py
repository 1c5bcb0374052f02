"""Evaluations read back from their folders: the values that are compared, and files with faults."""

import math
import re
import shutil

import pytest

from mambamed.evaluation import read_evaluation
from mambamed.evaluation.output import write_tables
from tests.evaluation.four_cases import evaluation_in
from tests.faults.in_process import call

DICE, HD95 = "dice", "hd95:max-directed"


def test_misses_have_their_penalties_and_undefined_values_stay_undefined(tmp_path) -> None:
    write_tables(evaluation_in(tmp_path))
    found = read_evaluation(tmp_path, "ours")
    assert (found.name, found.task, found.rules) == ("ours", "segmentation", "mambamed: by hand")
    values = {(case, metric): value for (case, _, metric), value in found.values.items()}
    assert values["a", DICE] == 0.8 and values["a", HD95] == 2.0
    assert values["b", DICE] == 0.4 and values["b", HD95] == 100.0  # infinite: the diagonal of the image
    assert math.isnan(values["c", DICE]) and math.isnan(values["c", HD95])
    assert values["d", DICE] == 0.0 and values["d", HD95] == 100.0  # unreadable: a miss
    questions = [(q.region, q.metric, q.higher_is_better, q.absent) for q in found.questions]
    assert questions == [("organ", DICE, True, 1.0), ("organ", HD95, False, 0.0)]


@pytest.mark.parametrize(
    ("name", "old", "new", "fact"),
    [
        ("summary.json", r"\A.*\Z", "{", "not valid JSON at line 1 column 2"),
        ("summary.json", r"\A.*\Z", "[]", "task: expected one of"),
        ("summary.json", '"segmentation"', '"painting"', "got 'painting'"),
        ("summary.json", r'"hd95:max-directed"(?=\s*\],\s*"rules")', '"hd96"', "unknown metric 'hd96'"),
        ("summary.json", '"cases": 4', '"cases": "four"', "summaries.0.cases: expected"),
        ("cases.csv", r"\A.*\Z", "", "is empty"),
        ("cases.csv", r"\Acase,region,dice", "case,region,dicee", "column dice is missing"),
        ("cases.csv", r"0\.8", "high", "cases.csv:2: could not convert"),
        ("cases.csv", r"b,organ,0\.4", "b,organ", "cases.csv:3: expected 11 cells, got 10"),
    ],
)
def test_a_damaged_file_gives_one_line(tmp_path, name, old, new, fact) -> None:
    write_tables(evaluation_in(tmp_path / "good"))
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    file = tmp_path / "bad" / name
    text = file.read_text()
    file.write_text(re.sub(old, new, text, count=1, flags=re.DOTALL))
    assert file.read_text() != text
    answer = call("compare", tmp_path / "good", tmp_path / "bad")
    assert answer.code == 2 and len(answer.lines) == 1, answer
    answer.line_with(str(file), fact)


@pytest.mark.parametrize("name", ["summary.json", "cases.csv"])
def test_a_missing_file_gives_one_line(tmp_path, name) -> None:
    for folder in ("good", "bad"):
        write_tables(evaluation_in(tmp_path / folder))
    (tmp_path / "bad" / name).unlink()
    answer = call("compare", tmp_path / "good", tmp_path / "bad")
    assert answer.code == 2 and len(answer.lines) == 1, answer
    file, fact = {
        "summary.json": (tmp_path / "bad", "is not an output folder of evaluate: no summary.json"),
        "cases.csv": (tmp_path / "bad" / name, "cannot be read"),
    }[name]
    answer.line_with(str(file), fact)
