import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mambamed.geometry import affine_to_ras, orientation_of, to_ras, voxel_to_world
from mambamed.preparation.grid import CaseGeometry
from mambamed.volumes.restore import labels_of_slabs, native_labels
from mambamed.volumes.sliding_window import Slab

LABELS = SimpleNamespace(by_regions=False, values=(0, 1, 2), order=(0, 1, 2))
REGIONS = SimpleNamespace(by_regions=True, values=(2, 1, 3), order=(0, 1, 2))


def geometry_of(affine: np.ndarray, shape: tuple[int, int, int]) -> CaseGeometry:
    orientation = orientation_of(affine)
    oriented = tuple(shape[axis] for axis in orientation.axes)
    return CaseGeometry(shape, tuple(map(tuple, affine.tolist())), orientation, (0, 0, 0), oriented, oriented)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_the_mask_of_any_orientation_lies_at_the_same_place_in_the_world(axes, signs) -> None:
    """48 ways to store one volume: the label's world position is the same in each."""
    shape = (5, 6, 7)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 3] = (3, -7, 11)
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * (1.0, 2.0, 0.5)[column]
    native = np.zeros(shape, np.uint8)
    native[1, 4, 2] = 2
    geometry = geometry_of(affine, shape)
    oriented = np.ascontiguousarray(to_ras(native, geometry.orientation))
    logits = torch.nn.functional.one_hot(torch.from_numpy(oriented).long(), 3).permute(3, 0, 1, 2).float()
    np.testing.assert_array_equal(native_labels(logits, geometry, LABELS), native)
    place = voxel_to_world(affine_to_ras(affine, shape, geometry.orientation), np.argwhere(oriented == 2)[0])
    np.testing.assert_allclose(place, voxel_to_world(affine, (1, 4, 2)))


def test_outside_the_crop_box_there_is_background() -> None:
    geometry = CaseGeometry(
        (6, 6, 6),
        tuple(map(tuple, np.eye(4).tolist())),
        orientation_of(np.eye(4)),
        (1, 2, 3),
        (4, 4, 5),
        (3, 2, 2),
    )
    logits = torch.zeros(3, 3, 2, 2)
    logits[1] = 1
    labels = native_labels(logits, geometry, LABELS)
    assert labels.dtype == np.uint8
    assert labels.sum() == 3 * 2 * 2
    assert np.all(labels[1:4, 2:4, 3:5] == 1)


def test_regions_nest_in_the_label_map() -> None:
    """WT (1, 2, 3) over ET (3): where all are positive, the innermost label is written."""
    geometry = geometry_of(np.eye(4), (4, 1, 1))
    wt, tc, et = [[-1.0, 1, 1, 1], [-1.0, -1, 1, 1], [-1.0, -1, -1, 1]]
    logits = torch.tensor([wt, tc, et]).view(3, 4, 1, 1)
    assert native_labels(logits, geometry, REGIONS).ravel().tolist() == [0, 2, 1, 3]


def test_logits_are_resampled_before_the_decision() -> None:
    """By hand: 0, 1 at two voxels become 0, 0.25, 0.75, 1 at four; against 0.5 the last two win."""
    geometry = CaseGeometry(
        (4, 1, 1),
        tuple(map(tuple, np.eye(4).tolist())),
        orientation_of(np.eye(4)),
        (0, 0, 0),
        (4, 1, 1),
        (2, 1, 1),
    )
    logits = torch.tensor([[0.5, 0.5], [0.0, 1.0], [-9.0, -9.0]]).view(3, 2, 1, 1)
    assert native_labels(logits, geometry, LABELS).ravel().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("piece", [1, 100])
def test_along_the_nearest_axis_logits_are_repeated(axis, piece) -> None:
    """By hand: five voxels read planes 0, 0, 1, 1, 1, as halfway the upper one is nearest."""
    first, second = [0.5, 0.0, -9.0], [0.0, 0.3, -9.0]
    shape, native = [1, 1, 1], [1, 1, 1]
    shape[axis], native[axis] = 2, 5
    logits = torch.tensor([first, second]).T.reshape(3, *shape)
    size = tuple(native)
    same = tuple(map(tuple, np.eye(4).tolist()))
    parts = logits.movedim(1 + axis, 0).contiguous().split(piece)
    slabs = [Slab(axis, n * piece, part) for n, part in enumerate(parts)]
    for nearest, expected in ((axis, [0, 0, 1, 1, 1]), (None, [0, 0, 0, 1, 1])):
        geometry = CaseGeometry(size, same, orientation_of(np.eye(4)), (0, 0, 0), size, tuple(shape), nearest)
        assert labels_of_slabs(slabs, geometry, LABELS).ravel().tolist() == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("native", [(13, 9, 14), (5, 30, 4), (6, 7, 8), (1, 1, 1)])
@pytest.mark.parametrize("piece", [1, 2, 100])
def test_slabs_give_what_torch_gives_of_the_whole(axis, native, piece) -> None:
    """torch's trilinear interpolation in float64, then argmax, or the regions in order."""
    prepared = (6, 7, 8)
    logits = torch.randn(4, *prepared)
    affine = np.array([[0, -2.0, 0, 1], [1.5, 0, 0, 2], [0, 0, -1.0, 3], [0, 0, 0, 1]])
    orientation = orientation_of(affine)
    stored = tuple(native[orientation.axes.index(k)] for k in range(3))
    geometry = CaseGeometry(
        stored, tuple(map(tuple, affine.tolist())), orientation, (0, 0, 0), native, prepared
    )
    planes = logits.movedim(1 + axis, 0).contiguous()
    parts = planes.split(piece)
    slabs = [Slab(axis, n * piece, part) for n, part in enumerate(parts)]
    fine = torch.nn.functional.interpolate(
        logits[None].double(), size=native, mode="trilinear", align_corners=False
    )[0]
    by_label = SimpleNamespace(by_regions=False, values=(0, 3, 1, 300), order=(0, 1, 2, 3))
    wanted = np.array(by_label.values)[fine.argmax(0).numpy()]
    answer = labels_of_slabs(slabs, geometry, by_label)
    assert answer.dtype == np.uint16 and answer.shape == stored
    assert (to_ras(answer, orientation) == wanted).mean() > 0.9999
    by_region = SimpleNamespace(by_regions=True, values=(4, 3, 2, 1), order=(2, 0, 3, 1))
    nested = np.zeros(native, int)
    for k in by_region.order:
        nested[fine[k].numpy() > 0] = by_region.values[k]
    assert (to_ras(labels_of_slabs(slabs, geometry, by_region), orientation) == nested).mean() > 0.9999
    if len(slabs) > 1:
        with pytest.raises(ValueError, match="do not fill"):
            labels_of_slabs(slabs[:-1], geometry, by_label)
        with pytest.raises(ValueError, match="expected from"):
            labels_of_slabs(slabs[1:], geometry, by_label)
