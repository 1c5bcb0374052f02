"""Columns of a table as covariates of a general recipe."""

from mambamed.tasks.covariates_found import covariates_found
from tests.tasks.datasets import dataset_of


def found(columns: dict[str, list[str]], classes: list[str]):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = rows or [{} for _ in classes]
    dataset = dataset_of(
        cases=len(classes), classes=tuple(sorted(set(classes))), classes_of=classes, covariates=rows
    )
    return covariates_found([dataset.case(case_id) for case_id in dataset.case_ids])


def test_numbers_and_words_become_covariates() -> None:
    columns = {"age": ["70", "61", "n/a", "65", "75"], "sex": ["F", "M", "F", "", "F"]}
    wanted, why = found(columns, ["ill", "well", "ill", "well", "well"])
    assert wanted == {"age": "number", "sex": ["F", "M"]}
    assert "age, sex" in why and "left out" not in why


def test_a_column_that_tells_the_class_by_itself_is_left_out_and_named() -> None:
    columns = {
        "score": ["7", "2", "9", "1"],
        "stage": ["late", "early", "late", "early"],
        "age": ["1", "2", "3", "4"],
    }
    wanted, why = found(columns, ["ill", "well", "ill", "well"])
    assert wanted == {"age": "number"}
    assert "score (determines the class alone)" in why and "stage (determines the class alone)" in why


def test_constant_columns_and_ids_are_left_out() -> None:
    count = 12
    columns = {"site": ["A"] * count, "name": [f"p{k}" for k in range(count)]}
    wanted, why = found(columns, ["ill", "well"] * (count // 2))
    assert wanted == {} and "site (the same in all cases)" in why and "name (12 different words)" in why


def test_without_columns_there_is_nothing_to_say() -> None:
    assert found({}, ["ill", "well"]) == ({}, "")
