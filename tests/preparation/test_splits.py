import numpy as np
import pytest
from sklearn.model_selection import KFold

from mambamed.errors import DatasetError
from mambamed.preparation.splits import make_splits
from mambamed.recipe import Split


def test_folds_are_those_of_nnunet() -> None:
    """nnU-Net splits the sorted ids by scikit-learn's KFold(5, shuffle=True, random_state=12345)."""
    ids = [f"case_{i:03d}" for i in range(23)]
    theirs = KFold(5, shuffle=True, random_state=12345).split(ids)
    ours = make_splits({case: case for case in ids}, Split())
    for fold, (train, val) in zip(ours, theirs, strict=True):
        assert fold["train"] == sorted(np.array(ids)[train].tolist())
        assert fold["val"] == sorted(np.array(ids)[val].tolist())


def test_visits_of_one_subject_never_straddle_a_split() -> None:
    subjects = {f"p{i // 3}_v{i % 3}": f"p{i // 3}" for i in range(60)}
    for fold in make_splits(subjects, Split(seed=1)):
        sides = [{subjects[case] for case in fold[part]} for part in ("train", "val")]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(subjects.values())


def test_fractions_give_one_split_of_these_sizes() -> None:
    cases = {f"c{i:02d}": f"c{i:02d}" for i in range(50)}
    (split,) = make_splits(cases, Split(train=0.7, val=0.1, test=0.2))
    assert [len(split[part]) for part in ("train", "val", "test")] == [35, 5, 10]
    assert sorted(case for part in split.values() for case in part) == sorted(cases)


def test_few_subjects_are_split_as_far_as_they_go() -> None:
    assert len(make_splits({"a": "a", "b": "b"}, Split())) == 2
    assert make_splits({"a": "a"}, Split()) == [{"train": ["a"], "val": []}]
    with pytest.raises(DatasetError, match="too few"):
        make_splits({"a": "a"}, Split(train=0.5, val=0.5))
