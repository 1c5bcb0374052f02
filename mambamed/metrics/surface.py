"""Distances between two surfaces, mm: computed once, evaluated in every convention.

A mask has two surfaces. *Voxels*: the foreground voxels with a 6-neighbor outside (MedPy, MONAI, Metrics
Reloaded). *Areas*: the corners between voxels where a mask begins or ends, each weighted with the area of
the surface there (DeepMind's surface-distance; see `surfels`). Outside the image is background.

Both surfaces have at least one point here; `rules` defines the scores of empty masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Spacings are stored as float32: 0.8 mm must be within a tolerance of 0.8 mm.
_TOLERANCE_SLACK = 1 + 1e-6


@dataclass(frozen=True)
class VoxelDistances:
    """Directed distances between surface voxels, mm."""

    from_reference: NDArray  # from each surface voxel of the reference to the prediction's surface
    from_prediction: NDArray  # the reverse


@dataclass(frozen=True)
class AreaDistances:
    """Directed distances between surface elements, mm, and the areas of the elements, mm²."""

    from_reference: NDArray
    from_prediction: NDArray
    reference_areas: NDArray
    prediction_areas: NDArray


def hausdorff(distances: VoxelDistances) -> float:
    """The largest distance from either surface to the other, mm."""
    return float(max(distances.from_reference.max(), distances.from_prediction.max()))


def hd_pooled(distances: VoxelDistances) -> float:
    """95th percentile of both directions' distances pooled, mm: `hd95` of MedPy and panoptica.

    A miss on one side can be hidden by the many points of the other.
    """
    return float(np.percentile(np.concatenate([distances.from_reference, distances.from_prediction]), 95))


def hd_max_directed(distances: VoxelDistances) -> float:
    """The larger of the two directions' 95th percentiles, mm: `hd95` of MONAI and Metrics Reloaded."""
    return float(max(np.percentile(d, 95) for d in (distances.from_reference, distances.from_prediction)))


def hd_surface_area(distances: AreaDistances) -> float:
    """The larger of the two directions' 95th percentiles by area, mm: surface-distance's robust Hausdorff."""
    return max(
        _percentile_by_area(distances.from_reference, distances.reference_areas, 95),
        _percentile_by_area(distances.from_prediction, distances.prediction_areas, 95),
    )


def assd_pooled(distances: VoxelDistances) -> float:
    """Mean of both directions' distances pooled, mm: MedPy's `assd`, MONAI's symmetric ASD."""
    count = distances.from_reference.size + distances.from_prediction.size
    return float((distances.from_reference.sum() + distances.from_prediction.sum()) / count)


def assd_mean_directed(distances: VoxelDistances) -> float:
    """Mean of the two directions' means, mm: both surfaces have the same weight, whatever their size."""
    return float((distances.from_reference.mean() + distances.from_prediction.mean()) / 2)


def nsd_voxel(distances: VoxelDistances, tolerance_mm: float) -> float:
    """Fraction of both surfaces' voxels within a tolerance of the other surface: MONAI's surface Dice.

    Departure: the tolerance is widened by 1e-6 of itself, see `_TOLERANCE_SLACK`.
    """
    limit = tolerance_mm * _TOLERANCE_SLACK
    within = np.count_nonzero(distances.from_reference <= limit)
    within += np.count_nonzero(distances.from_prediction <= limit)
    return within / (distances.from_reference.size + distances.from_prediction.size)


def nsd_surface_area(distances: AreaDistances, tolerance_mm: float) -> float:
    """Fraction of both surfaces' area within a tolerance of the other surface (Nikolov et al. 2018).

    Source: arXiv:1809.04430; the tolerance is widened as in `nsd_voxel`.
    """
    limit = tolerance_mm * _TOLERANCE_SLACK
    within = distances.reference_areas[distances.from_reference <= limit].sum()
    within += distances.prediction_areas[distances.from_prediction <= limit].sum()
    return float(within / (distances.reference_areas.sum() + distances.prediction_areas.sum()))


def _percentile_by_area(distances: NDArray, areas: NDArray, percent: float) -> float:
    # Sorted by area among equal distances, as in the reference implementation; the value does not change.
    order = np.lexsort((areas, distances))
    cumulative = np.cumsum(areas[order]) / np.sum(areas)
    index = np.searchsorted(cumulative, percent / 100)
    return float(distances[order[min(index, len(order) - 1)]])
