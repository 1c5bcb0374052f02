"""Lesion-wise scores: every lesion has the same weight, and every false positive one is penalized.

Source: the official script of BraTS 2023 (github.com/rachitsaluja/BraTS-2023-Metrics), with equal results:
26-connected components; parts of the reference whose dilations touch are one lesion; a predicted component
belongs to every lesion whose dilation it touches; lesions of the reference up to 50 mm³ are ignored, false
positive ones of any size are not; HD95 by surface area; a missed or false positive lesion has Dice 0 and
HD95 374 mm; if there are none, Dice is 1 and HD95 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambamed.metrics.kernels import Loops
from mambamed.metrics.surface import AreaDistances, hd_surface_area
from mambamed.metrics.surfels import area_of_codes

_WITH_CORNERS = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class LesionRules:
    """How lesions are separated and scored; the defaults are those of BraTS 2023 for glioma."""

    dilations: int = 3  # of the reference by the 18-neighborhood, before its parts are separated
    smallest_mm3: float = 50.0  # lesions of the reference up to this volume are ignored
    penalty_mm: float = 374.0  # HD95 of a missed or false positive lesion


@dataclass(frozen=True)
class LesionScores:
    """Lesions of one region of one case."""

    dice: tuple[float, ...]  # of each lesion of the reference that counts; 0 if missed
    hd95: tuple[float, ...]  # of each, mm; the penalty if missed
    found: tuple[bool, ...]  # whether each was touched by the prediction
    false: int  # predicted components that touch no lesion, not even one that is too small to count
    penalty_mm: float  # HD95 of a false positive lesion


def lesion_dice(scores: LesionScores) -> float:
    """Sum of Dice over the number of lesions, including false positive ones; 1 if there are none."""
    count = len(scores.dice) + scores.false
    return sum(scores.dice) / count if count else 1.0


def lesion_hd95(scores: LesionScores) -> float:
    """Mean HD95 of the lesions, mm, with the penalty for each false positive one; 0 if there are none."""
    count = len(scores.hd95) + scores.false
    return (sum(scores.hd95) + scores.false * scores.penalty_mm) / count if count else 0.0


def lesion_f1(scores: LesionScores) -> float:
    """2 TP / (2 TP + FP + FN), counted in lesions; 1 if there are none."""
    hits = sum(scores.found)
    count = hits + len(scores.found) + scores.false  # 2 TP + FN + FP
    return 2 * hits / count if count else 1.0


def score_lesions(
    reference: NDArray, prediction: NDArray, spacing: NDArray, rules: LesionRules, loops: Loops
) -> LesionScores:
    """Match and score the lesions of two `(X, Y, Z)` bool masks; `spacing` `(3,)` in mm.

    The masks may be cropped to a margin of `rules.dilations` voxels around both.
    """
    grown = reference
    for _ in range(rules.dilations):
        # By the 18-neighborhood: the union of the three flat 3 x 3 squares, each taken axis by axis.
        along_x, along_y = _spread(grown, 0), _spread(grown, 1)
        grown = _spread(along_x, 1) | _spread(along_x, 2) | _spread(along_y, 2)
    # The dilation of a lesion's parts is the connected component of the dilated mask that contains them, so
    # one labeling serves both to separate lesions and to match them.
    zones, lesion_count = _components(grown)
    parts, part_count = _components(prediction)
    touching = np.zeros((lesion_count + 1, part_count + 1), bool)
    touching[zones[prediction], parts[prediction]] = True
    touching[0] = False
    lesions = np.where(reference, zones, 0)
    volumes = np.bincount(lesions.ravel(), minlength=lesion_count + 1)
    part_sizes = np.bincount(parts.ravel(), minlength=part_count + 1)
    overlaps = np.bincount(lesions[prediction], minlength=lesion_count + 1)
    lesion_boxes, part_boxes = ndimage.find_objects(lesions), ndimage.find_objects(parts)

    dice, hd95, found = [], [], []
    for lesion in range(1, lesion_count + 1):
        if volumes[lesion] * spacing.prod() <= rules.smallest_mm3:
            continue
        matched = np.flatnonzero(touching[lesion])
        found.append(matched.size > 0)
        dice.append(2 * float(overlaps[lesion]) / float(volumes[lesion] + part_sizes[matched].sum()))
        if not matched.size:
            hd95.append(rules.penalty_mm)
            continue
        sides = zip(lesion_boxes[lesion - 1], *(part_boxes[part - 1] for part in matched), strict=True)
        box = tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)
        one = (lesions[box] == lesion).view(np.uint8)
        other = touching[lesion][parts[box]].view(np.uint8)
        hd95.append(hd_surface_area(area_distances(one, other, spacing, loops)))
    false = int(np.count_nonzero(~touching[:, 1:].any(axis=0)))
    return LesionScores(tuple(dice), tuple(hd95), tuple(found), false, rules.penalty_mm)


def area_distances(
    reference: NDArray, prediction: NDArray, spacing: NDArray, loops: Loops,
    member: NDArray | None = None, box: NDArray | None = None,
) -> AreaDistances:  # fmt: skip
    """Distances between the surface elements of two masks, or of a region of two label maps.

    Args:
        reference, prediction: `(X, Y, Z)` uint8.
        spacing: `(3,)` mm.
        member: `(256,)` whether a label belongs to the region; None for masks of 0 and 1.
        box: `(3, 2)` that contains both; None for the whole array.
    """
    if member is None:
        member = np.zeros(256, np.uint8)
        member[1] = 1
    if box is None:
        box = np.array([(0, edge) for edge in reference.shape])
    reference, prediction = np.ascontiguousarray(reference), np.ascontiguousarray(prediction)
    ours, our_codes = loops.surface_corners(reference, member, box)
    theirs, their_codes = loops.surface_corners(prediction, member, box)
    areas = area_of_codes(spacing)
    there, back = loops.distances(ours, theirs, spacing), loops.distances(theirs, ours, spacing)
    return AreaDistances(there, back, areas[our_codes], areas[their_codes])


def _components(mask: NDArray) -> tuple[NDArray, int]:
    """26-connected components, numbered from 1, and their count."""
    numbers = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, structure=_WITH_CORNERS, output=numbers)
    return numbers, int(count)  # type: ignore[arg-type]


def _spread(mask: NDArray, axis: int) -> NDArray:
    """Dilation by one voxel in both directions of an axis."""
    out = mask.copy()
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    out[tuple(ahead)] |= mask[tuple(behind)]
    out[tuple(behind)] |= mask[tuple(ahead)]
    return out
