"""Split cases into training, validation and test sets, by subject."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.splits import PARTS, groups_of, shown
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Split

Fold = dict[str, list[str]]
_MANY = 5


@dataclass(frozen=True)
class Member:
    """The properties of a case that splits depend on."""

    subject: str
    class_name: str | None = None
    labels: Collection[int] = ()  # label values that occur
    covariates: Mapping[str, str] = field(default_factory=dict)  # column -> text


def stratified(split: Split, manifest: DatasetManifest, task: str | None) -> Split:
    """The split with its default: balanced by class if the classes are what is learned.

    Args:
        task: of the recipe; None without one.
    """
    by_class = task == "classification" or (task is None and not manifest.labels and not manifest.landmarks)
    chosen = split.stratify or ("class" if manifest.classes and by_class else None)
    return split.model_copy(update={"stratify": None if chosen == "none" else chosen})


def classes_absent(
    folds: Sequence[Fold], members: Mapping[str, Member], classes: Collection[str]
) -> list[str]:
    """One line per fold whose training or validation cases lack a class."""
    lines = []
    for number, fold in enumerate(folds):
        for part, ids in fold.items():
            there = {members[case_id].class_name for case_id in ids}
            lacking = sorted(set(classes) - there)
            if ids and lacking and part != "test":
                what = "it cannot be trained" if part == "train" else "its AUC is undefined"
                lines.append(
                    f"fold {number}: no {part} case of class {shown(lacking)}: {what}. Use fewer --folds, or "
                    "--stratify class"
                )
    return lines


def make_splits(members: Mapping[str, Member], split: Split) -> list[Fold]:
    """Split the cases; cases of one group stay together.

    Returns: One dict per fold with "train" and "val" (and "test") -> sorted case ids, the format of nnU-Net's
    splits_final.json. With one case per subject, five folds, the default seed and no stratification, the
    splits equal nnU-Net's (scikit-learn's shuffled KFold).

    Raises DatasetError: fewer groups than parts, or a group that is only partly in the test set; RecipeError:
    an unknown column or test case.
    """
    group_of = groups_of(members, split.group_by)
    test = _fixed_test(group_of, split.test_cases)
    left = {case_id: group for case_id, group in group_of.items() if case_id not in test}
    groups = sorted(set(left.values()))
    order = np.arange(len(groups))
    np.random.RandomState(split.seed).shuffle(order)
    strata: dict[str, set[str]] = {group: set() for group in groups}
    if split.stratify is not None:
        for case_id, stratum in _strata(members, split.stratify).items():
            if case_id in left:
                strata[left[case_id]] |= stratum
    kept = [] if not split.test_cases else sorted(test)

    def cases(chosen: Collection[str]) -> list[str]:
        return sorted(case_id for case_id, group in left.items() if group in chosen)

    shuffled = [groups[i] for i in order]
    if split.train is not None:
        assert split.val is not None
        sizes = _sizes_of_fractions(len(groups), split)
        names = [part for part, size in zip(PARTS, sizes, strict=True) if size or part != "test"]
        parts = _dealt(shuffled, strata, [size for size in sizes if size], bool(split.stratify))
        fold = {name: cases(part) for name, part in zip(names, parts, strict=True)}
        return [fold | ({"test": kept} if kept else {})]
    count = min(split.folds, len(groups))
    if count < 2:
        # A single subject can be learned from, but not validated on.
        return [{"train": cases(groups), "val": []} | ({"test": kept} if kept else {})]
    sizes = [len(part) for part in np.array_split(order, count)]
    folds = []
    for held in _dealt(shuffled, strata, sizes, bool(split.stratify)):
        rest = set(groups) - set(held)
        folds.append({"train": cases(rest), "val": cases(held)} | ({"test": kept} if kept else {}))
    return folds


def _strata(members: Mapping[str, Member], stratify: str) -> dict[str, set[str]]:
    """Case id -> strata: its class, its labels, or the value of a column (its quartile for many numbers)."""
    if stratify == "class":
        return {case_id: {member.class_name or ""} for case_id, member in members.items()}
    if stratify == "labels":
        return {case_id: {str(v) for v in member.labels if v} for case_id, member in members.items()}
    texts = {case_id: member.covariates.get(stratify) for case_id, member in members.items()}
    if not any(texts.values()):
        raise RecipeError(
            f"no case has a column {stratify!r} to stratify by. Use class, labels or an existing column."
        )
    numbers = {case_id: _number(text) for case_id, text in texts.items()}
    known = [value for value in numbers.values() if value is not None]
    if len(set(known)) > 2 * _MANY and len(known) > len(texts) // 2:
        edges = np.quantile(known, [0.25, 0.5, 0.75])
        for case_id, value in numbers.items():
            texts[case_id] = None if value is None else str(int(np.searchsorted(edges, value)))
    return {case_id: {text or ""} for case_id, text in texts.items()}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _fixed_test(group_of: Mapping[str, str], test_cases: Sequence[str]) -> set[str]:
    """The test cases; their groups must not have other cases."""
    test = set(test_cases)
    unknown = sorted(test - set(group_of))
    if unknown:
        raise RecipeError(f"unknown test cases: {shown(unknown)}. Correct the list.")
    held = {group_of[case_id] for case_id in test}
    torn = sorted(case_id for case_id, group in group_of.items() if group in held and case_id not in test)
    if torn:
        raise DatasetError(
            f"{shown(torn)}: shares a group with a test case. Add it to the test cases or leave it out."
        )
    return test


def _sizes_of_fractions(count: int, split: Split) -> list[int]:
    assert split.train is not None and split.val is not None
    first = round(split.train * count)
    second = first + max(1, round(split.val * count))
    if first < 1 or second > count:
        raise DatasetError(f"{count} subjects are too few for a split into {split.train:g}, {split.val:g}")
    if not split.test:
        second = count
    return [first, second - first, count - second]


def _dealt(
    groups: Sequence[str], strata: Mapping[str, set[str]], sizes: Sequence[int], stratified: bool
) -> list[list[str]]:
    """Deal the groups into parts of these sizes: in their order, or stratified.

    Iterative stratification (Sechidis et al. 2011, ECML): the rarest stratum first, each of its groups into
    the part that lacks most of it.
    """
    if not stratified:
        ends = np.cumsum([0, *sizes])
        return [list(groups[a:b]) for a, b in itertools.pairwise(ends)]
    room = list(sizes)
    parts: list[list[str]] = [[] for _ in sizes]
    members: dict[str, list[str]] = {}
    for group in groups:
        for stratum in strata[group]:
            members.setdefault(stratum, []).append(group)
    left = {stratum: len(found) for stratum, found in members.items()}
    lacking = {stratum: [total * size / len(groups) for size in sizes] for stratum, total in left.items()}
    waiting = dict.fromkeys(groups)
    while waiting:
        rarest = min((s for s in left if left[s]), key=lambda s: (left[s], s), default=None)
        among = waiting if rarest is None else members[rarest]
        chosen = [group for group in among if group in waiting]
        for group in chosen:
            open_parts = [part for part in range(len(sizes)) if room[part] > 0]
            want = {p: lacking[rarest][p] if rarest is not None else 0.0 for p in open_parts}
            part = max(open_parts, key=lambda p: (want[p], room[p] / sizes[p], -p))
            parts[part].append(group)
            room[part] -= 1
            for stratum in strata[group]:
                lacking[stratum][part] -= 1
                left[stratum] -= 1
            del waiting[group]
    return parts
