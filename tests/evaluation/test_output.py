"""Files of an evaluation of masks: tables, report, and the cases that are shown first."""

import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from mambamed.documents.evaluation import read_summary
from mambamed.evaluation.backgrounds import Backgrounds
from mambamed.evaluation.output import find_pictures, worst_cases, write_report, write_tables
from mambamed.evaluation.pairing import Answers
from mambamed.io.tables import read_csv
from mambamed.metrics import parse_metrics
from mambamed.metrics.overlap import Counts
from mambamed.metrics.rules import DEFAULT
from mambamed.metrics.segmentation import RegionScores
from mambamed.report.page import WorstCase
from tests.evaluation.four_cases import CASES, METRICS, evaluation_in, scored


def test_the_tables_hold_every_case_and_the_summary_is_written_last(tmp_path) -> None:
    paths = write_tables(evaluation_in(tmp_path))
    assert [path.name for path in paths] == ["cases.csv", "summary.csv", "summary.json"]
    _, rows = read_csv(paths[0])
    assert [(row["case"], row["dice"], row["fault"]) for row in rows] == [
        ("a", "0.8", ""),
        ("b", "0.4", ""),
        ("c", "", ""),
        ("d", "", "d.nii: unreadable"),
    ]
    summary = read_summary(paths[2])
    assert summary.means("dice") == {"organ": pytest.approx(0.6)}
    assert summary.means("hd95:max-directed") == {"organ": 2.0}  # case b has no finite distance
    assert summary.faults == ("d.nii: unreadable",)


def test_the_worst_cases_are_those_of_the_first_metric_that_has_a_better_end() -> None:
    both = [("b", "organ: Dice 0.4"), ("a", "organ: Dice 0.8")]
    dice, hd95 = METRICS

    def found(metrics, cases=CASES, count=9):
        return [(case.case, reason) for case, reason in worst_cases(cases, metrics, DEFAULT, count)]

    assert found(METRICS) == both  # c is undefined, and d was not scored
    assert found(METRICS, count=1) == both[:1]
    assert found([hd95, dice]) == [("b", "organ: HD95 inf"), ("a", "organ: HD95 2")]
    assert found(parse_metrics(["volume_difference"])) == []
    assert found([dice], [scored("y", 0.5, 1), scored("x", 0.5, 1)])[0][0] == "x"  # equal: by name


def test_the_worst_region_of_a_case_decides_and_a_missed_one_is_named() -> None:
    missed = RegionScores(Counts(0, 0, 8, 92), "missed", {"dice": 0.0, "hd95:max-directed": math.inf})
    case = replace(CASES[0], regions={**CASES[0].regions, "tumor": missed})
    ((_, reason),) = worst_cases([case], METRICS, DEFAULT, 1)
    assert reason == "tumor: Dice 0, missed"


def test_a_case_is_pictured_if_its_files_can_be_read(tmp_path) -> None:
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "a.nii")
    there = replace(CASES[0], reference=tmp_path / "a.nii", prediction=tmp_path / "a.nii")
    evaluation = replace(evaluation_in(tmp_path), cases=(there, CASES[1]))
    second, first = find_pictures(
        evaluation, 2, Answers(None, None, "", {"organ": 1}), Backgrounds(None, tmp_path, frozenset())
    )
    assert (first.case, second.case, second.picture) == ("a", "b", None)
    assert (first.picture or b"").startswith(b"\x89PNG")


def test_the_report_shows_the_scores_without_the_counts_of_voxels(tmp_path) -> None:
    evaluation = evaluation_in(tmp_path)
    worst = [WorstCase("b", "organ: Dice 0.4", None)]
    path = write_report(evaluation, "The title", "The lead.", evaluation.table, worst)
    assert path == tmp_path / "report.html"
    page = path.read_text()
    for text in ("The title", "The lead.", "organ: Dice 0.4", "d.nii: unreadable", "presence"):
        assert text in page, text
    assert "penalty_mm" not in page and "subject" not in page
