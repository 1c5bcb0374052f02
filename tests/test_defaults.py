"""`benchmarks/defaults.py`: its table says which network is better, with the sign and the interval turned."""

import importlib
import math
from pathlib import Path

import pytest

from mambamed.documents.study import StudyDifference, StudyScore


@pytest.fixture
def defaults(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return importlib.import_module("defaults")


def test_a_difference_is_turned_to_the_network_of_the_row(defaults) -> None:
    """By hand: second minus first is 0.02 (0.01 to 0.05), so first minus second is -0.02 (-0.05 to -0.01)."""
    test = StudyDifference(
        dataset="d", region="average", metric="dice", first="a", second="b", subjects=9, difference=0.02,
        interval=(0.01, 0.05), wilcoxon_holm=0.5, permutation_holm=0.25, delong_holm=math.nan,
    )  # fmt: skip
    row = lambda name: StudyScore(  # noqa: E731
        dataset="d", recipe=name, region="average", metric="dice", seeds={"0": 0.5}, mean=0.5, sd=0,
        interval=(0, 1), rank=1, units=9,
    )  # fmt: skip
    assert defaults.difference_of([test], row("b"), "a") == ("+0.0200 (+0.0100 to +0.0500)", "0.250")
    assert defaults.difference_of([test], row("a"), "b") == ("-0.0200 (-0.0500 to -0.0100)", "0.250")
    assert defaults.difference_of([test], row("a"), "c") == ("", "")


def test_every_dataset_has_a_task_whose_present_network_is_compared(defaults) -> None:
    for known in defaults.DATASETS.values():
        assert defaults.NETWORKS_OF_TASKS[known.task][0] in defaults.NETWORKS[known.task]
