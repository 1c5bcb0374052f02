from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.preparation.splits import Member, classes_absent, groups_of, make_splits, stratified
from mambamed.recipe import Split


def each_alone(ids) -> dict[str, Member]:
    return {case_id: Member(case_id) for case_id in ids}


def test_folds_are_those_of_nnunet() -> None:
    """nnU-Net splits the sorted ids by scikit-learn's KFold(5, shuffle=True, random_state=12345)."""
    ids = [f"case_{i:03d}" for i in range(23)]
    theirs = KFold(5, shuffle=True, random_state=12345).split(ids)
    ours = make_splits(each_alone(ids), Split())
    for fold, (train, val) in zip(ours, theirs, strict=True):
        assert fold["train"] == sorted(np.array(ids)[train].tolist())
        assert fold["val"] == sorted(np.array(ids)[val].tolist())


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.sampled_from("xyz")),
        min_size=8,
        max_size=40,
    ),
    st.sampled_from(["subject", "site"]),
    st.sampled_from([None, "class", "site"]),
    st.booleans(),
)  # fmt: skip
def test_no_subject_ever_straddles_a_split(people, group_by, stratify, fractions) -> None:
    members = {
        f"c{n:02d}": Member(f"p{person}", kind, (), {"site": site})
        for n, (person, kind, site) in enumerate(people)
    }
    numbers = {"train": 0.7, "val": 0.1, "test": 0.2} if fractions else {"folds": 3}
    try:
        folds = make_splits(members, Split(group_by=group_by, stratify=stratify, **numbers))
    except DatasetError as error:
        assert "too few" in str(error)
        return
    for fold in folds:
        assert sorted(case_id for part in fold.values() for case_id in part) == sorted(members)
        for attribute in ("subject", "site") if group_by == "site" else ("subject",):
            sides = [
                {getattr(members[i], attribute, None) or members[i].covariates["site"] for i in part}
                for part in fold.values()
            ]
            assert sum(map(len, sides)) == len(set().union(*sides))


def test_fractions_give_one_split_of_these_sizes() -> None:
    cases = each_alone(f"c{i:02d}" for i in range(50))
    (split,) = make_splits(cases, Split(train=0.7, val=0.1, test=0.2))
    assert [len(split[part]) for part in ("train", "val", "test")] == [35, 5, 10]
    assert sorted(case for part in split.values() for case in part) == sorted(cases)


def test_strata_are_spread_evenly() -> None:
    """30 of a, 10 of b and 5 of c over five folds: 6, 2 and 1 in each, whatever the seed."""
    kinds = ["a"] * 30 + ["b"] * 10 + ["c"] * 5
    members = {f"c{n:02d}": Member(f"c{n:02d}", kind) for n, kind in enumerate(kinds)}
    for seed in range(5):
        for fold in make_splits(members, Split(stratify="class", seed=seed)):
            assert Counter(members[i].class_name for i in fold["val"]) == {"a": 6, "b": 2, "c": 1}


def test_a_rare_label_is_in_every_part() -> None:
    members = {f"c{n:02d}": Member(f"c{n:02d}", labels=(0, 1, 2) if n < 5 else (0, 1)) for n in range(40)}
    for fold in make_splits(members, Split(stratify="labels", folds=5)):
        assert sum(2 in members[i].labels for i in fold["val"]) == 1
    (fold,) = make_splits(members, Split(stratify="labels", train=0.6, val=0.2, test=0.2))
    assert [sum(2 in members[i].labels for i in part) for part in fold.values()] == [3, 1, 1]


def test_a_column_of_numbers_is_spread_by_its_quarters() -> None:
    ages = np.random.default_rng(0).permutation(40)
    members = {f"c{n:02d}": Member(f"c{n:02d}", covariates={"age": str(age)}) for n, age in enumerate(ages)}
    for fold in make_splits(members, Split(stratify="age", folds=5)):
        quarters = Counter(int(members[i].covariates["age"]) // 10 for i in fold["val"])
        assert quarters == {0: 2, 1: 2, 2: 2, 3: 2}


def test_a_fixed_test_set_stands_in_every_fold_and_nothing_of_its_subjects_elsewhere() -> None:
    members = {f"c{n}": Member(f"p{n // 2}") for n in range(12)}
    folds = make_splits(members, Split(folds=5, test_cases=("c2", "c3")))
    assert len(folds) == 5
    for fold in folds:
        assert fold["test"] == ["c2", "c3"]
        assert sorted(fold["train"] + fold["val"]) == sorted(set(members) - {"c2", "c3"})
    with pytest.raises(DatasetError, match="c3: shares a group with a test case"):
        make_splits(members, Split(test_cases=("c2",)))
    with pytest.raises(RecipeError, match="ghost"):
        make_splits(members, Split(test_cases=("ghost",)))


def test_a_site_holds_its_people_together() -> None:
    """p1 was at both sites: these are one group; p3 has no site and is one by itself."""
    members = {
        "c0": Member("p0", covariates={"site": "A"}),
        "c1": Member("p1", covariates={"site": "A"}),
        "c2": Member("p1", covariates={"site": "B"}),
        "c3": Member("p2", covariates={"site": "B"}),
        "c4": Member("p3"),
    }
    groups = groups_of(members, "site")
    assert len({groups[i] for i in ("c0", "c1", "c2", "c3")}) == 1
    assert groups["c4"] != groups["c0"]
    with pytest.raises(RecipeError, match="no case has a column 'ward'"):
        groups_of(members, "ward")


def test_few_subjects_are_split_as_far_as_they_go() -> None:
    assert len(make_splits(each_alone("ab"), Split())) == 2
    assert make_splits(each_alone("a"), Split()) == [{"train": ["a"], "val": []}]
    with pytest.raises(DatasetError, match="too few"):
        make_splits(each_alone("a"), Split(train=0.5, val=0.5))


CLASSED = DatasetManifest.of("d", channels={"a": "mri"}, classes=("NC", "AD"))
LABELED = CLASSED.changed(labels={"background": 0, "a": 1})


@pytest.mark.parametrize(
    ("manifest", "task", "asked", "expected"),
    [
        (CLASSED, None, None, "class"),
        (CLASSED, None, "none", None),
        (CLASSED, None, "age", "age"),
        (CLASSED, "segmentation", None, None),
        (LABELED, None, None, None),
        (LABELED, "classification", None, "class"),
    ],
)
def test_classes_are_balanced_unless_told_otherwise(manifest, task, asked, expected) -> None:
    assert stratified(Split(stratify=asked), manifest, task).stratify == expected


def test_every_fold_of_a_rare_class_validates_it_or_that_is_told() -> None:
    # 6 of 30: in 5 plain folds of 6 cases, one without the class is more likely than not.
    members = {f"c{n:02}": Member(f"c{n:02}", "AD" if n < 6 else "NC") for n in range(30)}
    for seed in range(5):
        balanced = make_splits(members, stratified(Split(seed=seed), CLASSED, None))
        assert classes_absent(balanced, members, CLASSED.classes) == []
        plain = make_splits(members, Split(seed=seed))
        without = [n for n, fold in enumerate(plain) if not {f"c{i:02}" for i in range(6)} & set(fold["val"])]
        told = [line.partition(":")[0] for line in classes_absent(plain, members, CLASSED.classes)]
        assert told == [f"fold {n}" for n in without]
    few = {f"c{n}": Member(f"c{n}", "AD" if n < 1 else "NC") for n in range(4)}
    lines = classes_absent(make_splits(few, Split(folds=2, stratify="class")), few, CLASSED.classes)
    assert sorted(line.split(": ", 1)[1].partition(":")[0] for line in lines) == [
        "no train case of class AD",
        "no val case of class AD",
    ]
