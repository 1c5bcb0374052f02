"""Training, validation and test cases, parted by subject."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mambamed.errors import DatasetError
from mambamed.recipe import Split


def make_splits(subjects: Mapping[str, str], split: Split) -> list[dict[str, list[str]]]:
    """Part the cases.

    Args:
        subjects: case id -> subject.
        split: folds, or fractions; the seed; whether subjects stay together.

    Returns:
        One dict a fold with "train" and "val" (and "test", for fractions with one) -> sorted case ids:
        nnU-Net's shape of splits_final.json. With as many subjects as cases, five folds and the default
        seed they are nnU-Net's own (scikit-learn's shuffled KFold).

    Raises:
        DatasetError: fewer subjects than parts.
    """
    group_of = dict(subjects) if split.group_by == "subject" else {case: case for case in subjects}
    groups = sorted(set(group_of.values()))
    order = np.arange(len(groups))
    np.random.RandomState(split.seed).shuffle(order)

    def cases(chosen: np.ndarray) -> list[str]:
        wanted = {groups[i] for i in chosen}
        return sorted(case for case, group in group_of.items() if group in wanted)

    if split.train is not None:
        assert split.val is not None
        first = round(split.train * len(groups))
        second = first + max(1, round(split.val * len(groups)))
        if first < 1 or second > len(groups):
            raise DatasetError(
                f"{len(groups)} subjects are too few for a split into {split.train}, {split.val}"
            )
        parts = {"train": cases(order[:first]), "val": cases(order[first:second])}
        return [parts | ({"test": cases(order[second:])} if split.test else {})]
    folds = min(split.folds, len(groups))
    if folds < 2:
        # One subject: it can be learned from, and there is nothing to validate on.
        return [{"train": cases(order), "val": []}]
    return [
        {"train": cases(np.setdiff1d(order, held)), "val": cases(held)}
        for held in np.array_split(order, folds)
    ]
