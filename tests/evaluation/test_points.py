"""Points against points: errors by hand, misses that count, files, the papers' columns."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from mambamed import api
from mambamed.errors import DatasetError
from mambamed.evaluation.points import evaluate_points
from mambamed.io.json_files import read_json, write_json
from mambamed.io.points import write_point_table, write_points
from mambamed.metrics.measures import measure
from mambamed.metrics.points import POINT_METRICS, PointMetric

REFERENCE = {
    "p1": {"TCD 1": (0.0, 0.0, 0.0), "TCD 2": (10.0, 0.0, 0.0)},
    "p2": {"TCD 1": (1.0, 1.0, 1.0), "TCD 2": (5.0, 5.0, 5.0)},
    "p3": {"TCD 1": (2.0, 2.0, 2.0), "TCD 2": None},
}
# 5 mm off, exact; 2.5 mm off, missed; 0 off and a spurious one.
PREDICTION = {
    "p1": {"TCD 1": (3.0, 0.0, 4.0), "TCD 2": (10.0, 0.0, 0.0)},
    "p2": {"TCD 1": (1.0, 3.5, 1.0), "TCD 2": (math.nan,) * 3},
    "p3": {"TCD 1": (2.0, 2.0, 2.0), "TCD 2": (9.0, 9.0, 9.0)},
}


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """References for Slicer (LPS), predictions as JSON (RAS)."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for case, points in PREDICTION.items():
        write_points(predictions / f"{case}.json", points)
    for case, points in REFERENCE.items():
        write_points(references / f"{case}.mrk.json", points)
    write_json(predictions / "run.json", {"cases": {}})
    return predictions, references


def test_errors_and_misses_are_those_of_the_hand(folders) -> None:
    one, other, every = evaluate_points(*folders).summaries
    assert (one.name, one.found, one.expected, one.spurious) == ("TCD 1", 3, 3, 0)
    assert one.values["mre_mm"] == pytest.approx((5 + 2.5 + 0) / 3)
    assert one.values["sd_mm"] == pytest.approx(np.std([5, 2.5, 0], ddof=1))
    # A point at just 2.5 mm is within 2.5 mm.
    assert one.sdr == pytest.approx({2.0: 1 / 3, 2.5: 2 / 3, 3.0: 2 / 3, 4.0: 2 / 3})
    assert (other.name, other.found, other.expected) == ("TCD 2", 1, 2)
    assert (other.spurious, other.absent) == (1, 1)
    assert other.values["mre_mm"] == 0
    assert other.sdr[4.0] == 0.5  # the missed one is a failure at any distance
    assert (every.name, every.found, every.expected) == ("all", 4, 5)
    assert every.values["mre_mm"] == pytest.approx(7.5 / 4)


def test_the_papers_table_has_a_column_a_landmark_and_the_average(folders, tmp_path) -> None:
    paper = {"TCD1": 2.21, "TCD 2": 2.18, "Average": 2.11, "source": "Table 4"}
    table = evaluate_points(*folders, table="landmarks", paper=paper).paper_table
    assert table is not None
    assert list(table.headers) == ["method", "TCD 1", "TCD 2", "Average"]
    assert list(table.rows[0]) == ["predictions", "2.50", "0.00", "1.25"]
    assert list(table.rows[1]) == ["paper (Table 4)", "2.21", "2.18", "2.11"]
    written = evaluate_points(*folders, table="landmarks", output=tmp_path / "out").written
    assert {"table_landmarks.csv", "cases.csv", "summary.csv", "report.html"} <= {p.name for p in written}


def test_a_case_without_a_prediction_is_told_and_its_landmarks_are_missed(folders) -> None:
    predictions, references = folders
    (predictions / "p1.json").unlink()
    evaluation = evaluate_points(predictions, references)
    assert [str(fault) for fault in evaluation.faults] == [
        f"p1: has no points in {predictions}; all of its landmarks count as missed"
    ]
    assert (evaluation.summaries[-1].found, evaluation.summaries[-1].expected) == (2, 5)
    chosen = evaluate_points(predictions, references, only_predicted=True)
    assert not chosen.faults
    assert chosen.summaries[-1].expected == 3


def test_files_say_what_the_tables_say(folders, tmp_path) -> None:
    evaluation = evaluate_points(*folders, output=tmp_path / "out", distances_mm=(1.0, 6.0))
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [s["name"] for s in summary["summaries"]] == ["TCD 1", "TCD 2"]
    assert summary["overall"]["mean"] == pytest.approx(7.5 / 4)
    assert summary["overall"]["sdr"] == pytest.approx({"1": 2 / 5, "6": 4 / 5})
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = {(row["case"], row["landmark"]): row for row in csv.DictReader(file)}
    assert [rows["p1", "TCD 1"][key] for key in ("status", "error_mm")] == ["found", "5.0"]
    assert rows["p2", "TCD 2"]["status"] == "missed"
    assert rows["p3", "TCD 2"]["status"] == "spurious"
    assert summary["summaries"][1]["absent"] == summary["overall"]["absent"] == 1
    assert summary["cases"]["p3"]["absent"] == ["TCD 2"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 missed or spurious" in page
    assert evaluation.table.rows[-1][0] == "all"


def test_a_metric_is_a_function_and_a_line(folders, tmp_path, monkeypatch) -> None:
    """It is in the table and the files."""
    monkeypatch.setitem(POINT_METRICS, "min_mm", PointMetric(lambda errors: float(errors.min()), "min"))
    evaluation = evaluate_points(*folders, output=tmp_path / "out")
    assert evaluation.table.headers[3:6] == ["median", "max", "min"]
    assert evaluation.table.rows[0][5] == "0"  # of 5, 2.5 and 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [row["values"]["min_mm"] for row in summary["summaries"]] == [0, 0]
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["min_mm"] for row in csv.DictReader(file)] == ["0.0", "0.0", "0.0"]


def test_tables_and_chosen_landmarks_are_scored_too(folders, tmp_path) -> None:
    predictions, _ = folders
    write_point_table(tmp_path / "reference.csv", REFERENCE)
    write_point_table(tmp_path / "prediction.csv", PREDICTION)
    every = evaluate_points(tmp_path / "prediction.csv", tmp_path / "reference.csv")
    assert every.summaries[-1].values["mre_mm"] == pytest.approx(7.5 / 4)
    one = evaluate_points(predictions, tmp_path / "reference.csv", landmarks=["TCD 2"])
    assert [s.name for s in one.summaries] == ["TCD 2", "all"]
    assert one.summaries[-1].expected == 2


def test_a_point_that_nobody_annotated_is_neither_spurious_nor_missed(folders, tmp_path) -> None:
    """p3 has no entry of TCD 2, which is predicted there; in p1 it is absent, and not predicted."""
    truth = {"p1": {"TCD 1": (0.0, 0.0, 0.0), "TCD 2": None}, "p3": {"TCD 1": (2.0, 2.0, 2.0)}}
    write_point_table(tmp_path / "reference.csv", truth)
    write_points(tmp_path / "found" / "p1.json", {"TCD 1": (3.0, 0.0, 4.0), "TCD 2": None})
    write_points(tmp_path / "found" / "p3.json", PREDICTION["p3"])
    evaluation = evaluate_points(tmp_path / "found", tmp_path / "reference.csv", output=tmp_path / "out")
    every = evaluation.summaries[-1]
    assert (every.found, every.expected, every.spurious, every.absent) == (2, 2, 0, 1)
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = [(row["case"], row["landmark"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [("p1", "TCD 1", "found"), ("p1", "TCD 2", "absent"), ("p3", "TCD 1", "found")]
    again = api.compare([tmp_path / "out", tmp_path / "out"])
    assert again is not None  # what is absent has no error to compare


def test_sets_without_a_case_in_common_are_refused(folders, tmp_path) -> None:
    write_point_table(tmp_path / "others.csv", {"q": {"a": (0.0, 0.0, 0.0)}})
    with pytest.raises(DatasetError, match="no case in common"):
        evaluate_points(folders[0], tmp_path / "others.csv")


def test_angles_are_those_of_the_hand() -> None:
    points = {"a": (1.0, 0.0, 0.0), "o": (0.0, 0.0, 0.0), "b": (1.0, 1.0, 0.0), "c": (1.0, 1.0, 5.0)}
    assert measure(points, ("a", "o", "b")).value == pytest.approx(45)
    assert measure(points, ("o", "a", "b", "c")).value == pytest.approx(90)
    assert measure(points, ("o", "a", "a", "o")).value == pytest.approx(180)
    assert math.isnan(measure(points, ("a", "nobody")).value)
    assert math.isnan(measure(points, ("a", "a", "b")).value)
    with pytest.raises(ValueError, match="expected two, three or four landmarks, got 1"):
        measure(points, ("a",))


def test_the_verb_knows_points_from_masks(folders) -> None:
    from mambamed.evaluation.points import PointEvaluation

    evaluation = api.evaluate(*folders)
    assert isinstance(evaluation, PointEvaluation)
    assert evaluation.summaries[-1].found == 4


def test_spelling_of_landmarks_is_that_of_the_reference(folders, tmp_path) -> None:
    predictions, references = folders
    respelled = tmp_path / "respelled"
    for case, points in PREDICTION.items():
        write_points(
            respelled / f"{case}.json", {name.lower().replace(" ", "_"): p for name, p in points.items()}
        )
    before, after = evaluate_points(*folders), evaluate_points(respelled, references)
    for ours, theirs in zip(after.summaries, before.summaries, strict=True):
        assert ours.values == pytest.approx(theirs.values, nan_ok=True)
    recipe = evaluate_points(predictions, references, landmarks=("tcd_2",))
    assert [s.name for s in recipe.summaries] == ["TCD 2", "all"]


def test_landmarks_that_only_one_side_names_are_said_and_none_in_common_is_refused(folders, tmp_path) -> None:
    _, references = folders
    others = tmp_path / "others"
    for case, points in PREDICTION.items():
        write_points(others / f"{case}.json", {"TCD 1": points["TCD 1"], "nose": (0.0, 0.0, 0.0)})
    notes = evaluate_points(others, references).table.notes
    assert "only in the predictions: nose" in notes and "only in the references: TCD 2" in notes
    with pytest.raises(DatasetError, match=r"names disagree: chin \(the recipe\) \| TCD 2 \(references\)"):
        evaluate_points(others, references, landmarks=("TCD 1", "chin"))
    for case in PREDICTION:
        write_points(others / f"{case}.json", {"nose": (0.0, 0.0, 0.0)})
    with pytest.raises(DatasetError, match=r"no landmark in common: nose \(predictions\) \| TCD 1, TCD 2 \("):
        evaluate_points(others, references)


def test_tables_of_slicer_are_read_on_both_sides(folders, tmp_path) -> None:
    """Columns as 3D Slicer's "Export as table" writes them; LPS is RAS with x and y reversed."""
    before = evaluate_points(*folders).summaries
    sides = []
    for name, points_of in (("p", PREDICTION), ("r", REFERENCE)):
        for system, sign in (("l,p,s", -1), ("r,a,s", 1)):
            folder = tmp_path / f"{name}{sign}"
            folder.mkdir()
            for case, points in points_of.items():
                there = {landmark: p for landmark, p in points.items() if p and not math.isnan(p[0])}
                lines = [f"{k},{sign * x},{sign * y},{z},1,1,1,0,\n" for k, (x, y, z) in there.items()]
                header = f"label,{system},defined,selected,visible,locked,description\n"
                (folder / f"{case}.csv").write_text(header + "".join(lines))
        sides.append(tmp_path / f"{name}-1")
    for predictions, references in (sides, (tmp_path / "p1", folders[1]), (folders[0], tmp_path / "r-1")):
        found = api.evaluate(predictions, references).summaries
        spurious = int(references == folders[1])  # only in Slicer's Markups is a landmark absent
        assert [(s.found, s.expected, s.spurious) for s in found] == [
            (3, 3, 0), (1, 2, spurious), (4, 5, spurious)
        ]  # fmt: skip
        for ours, theirs in zip(found, before, strict=True):
            assert ours.values == pytest.approx(theirs.values, nan_ok=True)


def test_references_that_spell_a_landmark_differently_are_refused(folders, tmp_path) -> None:
    truth = {"p1": {"TCD 1": (0.0, 0.0, 0.0)}, "p2": {"tcd_1": (1.0, 1.0, 1.0)}}
    write_point_table(tmp_path / "reference.csv", truth)
    with pytest.raises(DatasetError, match=r"spelled differently: TCD 1 \(p1\) \| tcd_1 \(p2\)"):
        evaluate_points(folders[0], tmp_path / "reference.csv")


def test_the_name_of_all_others_is_no_landmark_of_a_single_file(tmp_path) -> None:
    for folder, rows in (("p", "nose,1,2,4\nchin,1,1,1\n"), ("r", "nose,1,2,3\n*,,,\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text(f"landmark,x,y,z\n{rows}")
    found = evaluate_points(tmp_path / "p" / "a.csv", tmp_path / "r" / "a.csv")
    assert [(s.name, s.found, s.absent) for s in found.summaries] == [("nose", 1, 0), ("all", 1, 0)]
    assert "only in the predictions: chin" in found.table.notes
