"""Left and right: which labels, regions, landmarks or classes change places in an image mirrored across x.

Prepared arrays are in RAS+ order, so that x runs from the left to the right of the person.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from mambamed.cases import BACKGROUND, IGNORE
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Recipe
from mambamed.schema_errors import some_of

Pairs = tuple[tuple[str, str], ...]

_LEFT = ("left", "l", "lh", "lt", "sinister", "sinistra")
_RIGHT = ("right", "r", "rh", "rt", "dexter", "dextra")
_SIDES: dict[str, str] = {**dict.fromkeys(_LEFT, "left"), **dict.fromkeys(_RIGHT, "right")}
_ANY_POSE_DEGREES = 90
_OTHER = {"left": "right", "right": "left"}
_WORD = re.compile(r"[LlRr]\d+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+|\d+")  # camelCase is two words
_JOINED = re.compile(r"(left|right)(\w+)")  # leftkidney
# Words that are a side only if another name has the other side: L1 of L1 and R1, but not of L1 and L2.
_DOUBTFUL = re.compile(r"(l|r)(\d+)|(\w+)(left|right)")


def pairs_by_name(names: Iterable[str]) -> tuple[Pairs, tuple[str, ...]]:
    """Pairs (left, right) of names that differ only in their sides, and the names with a side and no partner.

    >>> pairs_by_name(["eye_left", "nose", "eye_right", "ear_left"])
    ((('eye_left', 'eye_right'),), ('ear_left',))
    >>> pairs_by_name(["L>R", "R>L", "left", "l", "right"])
    ((('L>R', 'R>L'),), ('left', 'l', 'right'))
    >>> pairs_by_name(["vertebra_L1", "vertebra_L2", "node L3", "node R3", "kidneyleft", "kidneyright"])
    ((('node L3', 'node R3'), ('kidneyleft', 'kidneyright')), ())
    """
    names = list(names)
    pairs, alone = _paired(names, _words)
    taken = {*alone, *(name for pair in pairs for name in pair)}
    doubtful, _ = _paired((name for name in names if name not in taken), _doubtful_words)
    return (*pairs, *doubtful), alone


def _paired(names: Iterable[str], words_of: Callable[[str], list[str]]) -> tuple[Pairs, tuple[str, ...]]:
    members: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        words = tuple(_SIDES.get(word, f"={word}") for word in words_of(name))
        if _OTHER.keys() & set(words):
            members[words].append(name)
    pairs, alone = [], []
    for words, group in members.items():
        partners = members.get(tuple(_OTHER.get(word, word) for word in words), [])
        if len(group) != 1 or len(partners) != 1:
            alone += group
        elif next(word for word in words if word in _OTHER) == "left":
            pairs.append((group[0], partners[0]))
    return tuple(pairs), tuple(alone)


def _words(name: str) -> list[str]:
    return [part for word in _WORD.findall(name) for part in _parts(_JOINED, word.lower())]


def _doubtful_words(name: str) -> list[str]:
    return [part for word in _words(name) for part in _parts(_DOUBTFUL, word)]


def _parts(pattern: re.Pattern[str], word: str) -> list[str]:
    found = pattern.fullmatch(word)
    return [part for part in found.groups() if part] if found else [word]


def decided_mirroring(recipe: Recipe, manifest: DatasetManifest) -> tuple[Recipe, str]:
    """The recipe with all pairs in `dataset.mirror_pairs`; or with fewer mirrored axes, and the reason.

    Pairs are those that the recipe gives, then those of the names that differ only in left and right. Names
    that are in no pair are their own mirror image, unless they name a side. Of regions, those without a side
    whose labels are paired are paired like their labels. If training also rotates by more than 90 degrees, a
    mirror image across y or z is one across x of another pose, so that only x is mirrored.

    Raises:
        RecipeError: a given pair names what is not predicted.
    """
    dataset, augment = recipe.dataset, recipe.training.augment
    pairs, fault = _pairs(recipe, manifest) if augment.mirror else ((), "")
    if not fault and "x" in augment.mirror:
        dataset = dataset.model_copy(update={"mirror_pairs": pairs})
    kept, any_pose = augment.mirror, bool(augment.rotate and augment.rotate_degrees > _ANY_POSE_DEGREES)
    if fault:
        kept = tuple(axis for axis in kept if axis != "x")
    if any_pose and (fault or any(one != other for one, other in pairs)):
        kept = tuple(axis for axis in kept if axis == "x")
    training = recipe.training.model_copy(update={"augment": augment.model_copy(update={"mirror": kept})})
    turned = f"rotations by more than {_ANY_POSE_DEGREES} degrees turn mirrored y or z into mirrored x"
    reason = (fault or turned) if len(kept) < len(augment.mirror) else ""
    return recipe.model_copy(update={"dataset": dataset, "training": training}), reason


def mirroring_lines(asked: Recipe, decided: Recipe, manifest: DatasetManifest) -> list[str]:
    """What a run does with left and right, for its log; nothing if no name has a side and none was given."""
    lines, pairs, axes = [], pairs_in_use(decided), decided.training.augment.mirror
    if swapped := [f"{one} and {other}" for one, other in pairs if one != other]:
        lines.append(f"mirrored across x, which swaps {some_of(swapped)}")
    if off := [axis for axis in asked.training.augment.mirror if axis not in axes]:
        lines.append(f"not mirrored across {', '.join(off)}: {decided_mirroring(asked, manifest)[1]}")
    sided = {name for pair in pairs_by_name(answers_of(decided, manifest))[0] for name in pair}
    if "x" in axes and (left := sorted(sided - {name for pair in pairs for name in pair})):
        lines.append(f"mirrored across x without swapping {some_of(left)}, as the run began")
    return lines


def pairs_in_use(recipe: Recipe) -> Pairs:
    """The pairs that are swapped in mirrored images; none if images are not mirrored across x."""
    return recipe.dataset.mirror_pairs if "x" in recipe.training.augment.mirror else ()


def mirror_order(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> tuple[int, ...] | None:
    """Index of the name that each one becomes in an image mirrored across x; None if none changes.

    Raises:
        RecipeError: a pair has an unknown name.

    >>> mirror_order(("left", "nose", "right"), (("left", "right"),))
    (2, 1, 0)
    """
    swapped = _mapping(pairs)
    if strange := [name for name in swapped if name not in names]:
        raise RecipeError(
            f"dataset.mirror_pairs: {some_of(strange)}: not among {', '.join(names)}. Correct the name."
        )
    order = tuple(names.index(swapped.get(name, name)) for name in names)
    return None if order == tuple(range(len(names))) else order


def mirrored_values(
    values: Iterable[int], regions: Mapping[str, Sequence[int]], pairs: Iterable[tuple[str, str]]
) -> dict[int, int]:
    """For regions: label value -> one that lies in the partners of its regions.

    Raises:
        DatasetError: no label lies in just these.

    >>> mirrored_values([0, 1, 2, 3], {"left": [1], "right": [2], "both": [1, 2]}, [("left", "right")])
    {0: 0, 1: 2, 2: 1, 3: 3}
    """
    swapped, values = _mapping(pairs), list(values)
    within = {value: {name for name, members in regions.items() if value in members} for value in values}
    found: dict[int, int] = {}
    for value, names in within.items():
        wanted = {swapped.get(name, name) for name in names}
        like = [other for other in values if within[other] == wanted]
        if not like:
            raise DatasetError(
                f"label {value} is in {', '.join(sorted(names))}, and no label is in just "
                f"{', '.join(sorted(wanted))}"
            )
        found[value] = value if value in like else like[0]
    return found


def answers_of(recipe: Recipe, manifest: DatasetManifest) -> tuple[str, ...]:
    """The names that the task of a recipe predicts."""
    answers = {"landmarks": manifest.landmarks, "classification": manifest.classes}
    return tuple(answers.get(recipe.task, manifest.foreground))


def _mapping(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {one: other for a, b in pairs for one, other in ((a, b), (b, a))}


def _pairs(recipe: Recipe, manifest: DatasetManifest) -> tuple[Pairs, str]:
    """All pairs of what is predicted, or why they are not known."""
    names, given = answers_of(recipe, manifest), recipe.dataset.mirror_pairs
    labels = [name for name in manifest.labels if name not in (BACKGROUND, IGNORE)]
    by_regions = recipe.task == "segmentation" and bool(manifest.regions)
    allowed = [{*names}, {*labels}] if by_regions else [{*names}]
    if strange := [pair for pair in given if not any({*pair} <= known for known in allowed)]:
        raise RecipeError(
            f"recipe {recipe.name}: dataset.mirror_pairs: {' and '.join(strange[0])}: expected two of "
            f"{', '.join(names)}{' or two labels' if by_regions else ''}. Correct the names."
        )
    pairs, alone = _completed(names, given)
    if by_regions and not alone:
        of_labels, _ = _completed(labels, given)
        pairs, fault = _with_regions_of(of_labels, manifest, pairs)
        if fault:
            return (), fault
    if alone:
        return (), (
            f"{some_of(alone)}: no partner on the other side. Add it to dataset.mirror_pairs, with itself "
            f"if it is its own mirror image: [[{alone[0]}, {alone[0]}]]"
        )
    if sided := _sided_covariates(recipe):
        return (), f"the covariate {sided} names a side, which mirroring does not change"
    return pairs, ""


def _completed(names: Sequence[str], given: Pairs) -> tuple[Pairs, tuple[str, ...]]:
    """The given pairs and those by name of the other names, and the names with a side and no partner."""
    taken = {name for pair in given for name in pair}
    pairs, alone = pairs_by_name(name for name in names if name not in taken)
    return (*(pair for pair in given if {*pair} <= {*names}), *pairs), alone


def _with_regions_of(of_labels: Pairs, manifest: DatasetManifest, pairs: Pairs) -> tuple[Pairs, str]:
    """The pairs of regions, and of those that are in none but whose labels are paired; or what is missing."""
    swapped = {manifest.labels[one]: manifest.labels[other] for one, other in _mapping(of_labels).items()}
    partner = _mapping(pairs)
    for name, members in manifest.regions.items():
        if name in partner:
            continue
        wanted = {swapped.get(value, value) for value in members}
        free = {other: {*others} for other, others in manifest.regions.items() if other not in partner}
        like = [other for other, others in free.items() if others == wanted]
        if not like:
            return (), f"region {name} holds labels of one side, and no region those of the other"
        other = name if name in like else like[0]
        partner |= {name: other, other: name}
        if other != name:
            pairs = (*pairs, (name, other))
    values = [value for label, value in manifest.labels.items() if label != IGNORE]
    try:
        mirrored_values(values, manifest.regions, pairs)
    except DatasetError as error:
        return (), str(error)
    return pairs, ""


def _sided_covariates(recipe: Recipe) -> str:
    """The first covariate whose name or values name a side; empty if none does."""
    for name, values in recipe.dataset.covariates.items():
        words = [name, *(() if isinstance(values, str) else values)]
        if any(word in _SIDES for each in words for word in _words(each)):
            return name
    return ""
