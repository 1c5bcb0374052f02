"""What a column of classes may hold."""

import re
from pathlib import Path

import pytest

from mambamed.converters.found_classes import found_classes
from mambamed.errors import DatasetError

HERE = Path("cases.csv")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["10", "2", "1", "2"], ("1", "2", "10")),
        (["b", None, "a", "", "2"], ("2", "a", "b")),
        ([str(n % 8) for n in range(80)], tuple(map(str, range(8)))),
        ([f"organ {n % 30:02}" for n in range(300)], tuple(f"organ {n:02}" for n in range(30))),
        (["0.5", "1.5"], ("0.5", "1.5")),
    ],
)
def test_classes_are_numbers_by_value_then_words(names, classes) -> None:
    assert found_classes(names, "class", HERE) == classes


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([str(50 + n) for n in range(24)], "age: 24 different values in 24 cases (50, 51, 52 and 21 more)"),
        ([str(20 + n % 60) for n in range(600)], "age: 60 different values in 600 cases"),
        ([f"{n % 7}.5" for n in range(700)], "7 different values in 700 cases (0.5, 1.5, 2.5 and 4 more)"),
        ([f"patient {n}" for n in range(9)], "are too many classes. Name another column"),
        (["AD", "NC", "ad"], "AD and ad are spellings of one class"),
        (["1", "1.0", "0"], "1 and 1.0 are spellings of one class"),
    ],
)
def test_measurements_ids_and_two_spellings_are_no_classes(names, line) -> None:
    with pytest.raises(DatasetError, match=re.escape(line)):
        found_classes(names, "age", HERE)
