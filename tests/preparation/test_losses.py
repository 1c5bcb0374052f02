"""What preparation loses, against scipy.ndimage: nearest zoom back to the native grid, and its components."""

import math

import numpy as np
import pytest
from scipy import ndimage

from mambamed.converters import convert
from mambamed.geometry import orientation_of, to_ras
from mambamed.io.images import Image, write_image
from mambamed.io.tables import read_csv
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.loss_kernels import count_components
from mambamed.preparation.losses import losses_of
from mambamed.preparation.prepare import prepare
from mambamed.preparation.prepare_image import prepare_label

CORNERS = np.ones((3, 3, 3))


def geometry_of(image: Image, start, stop, shape) -> CaseGeometry:
    affine = tuple(map(tuple, image.affine.tolist()))
    return CaseGeometry(image.array.shape, affine, orientation_of(image.affine), start, stop, shape)


def expected(label, prepared, start, stop) -> dict:
    """The same by scipy: label and crop box are in RAS+ order."""
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    back = np.zeros_like(label)
    factors = [n / m for n, m in zip(label[box].shape, prepared.shape, strict=True)]
    back[box] = ndimage.zoom(prepared, factors, order=0, mode="nearest", grid_mode=True)
    found = {}
    for value in np.unique(label[label > 0]).tolist():
        inside, kept = np.zeros(label.shape, bool), (label == value) & (back == value)
        inside[box] = label[box] == value
        parts, count = ndimage.label(label == value, CORNERS)
        lost = count - len(np.unique(parts[kept]))
        found[str(value)] = (int((label == value).sum()), int(inside.sum()), int(kept.sum()), count, lost)
    return found


@pytest.mark.parametrize(
    ("affine", "order", "kind"),
    [
        (np.diag([1.0, 1, 1, 1]), "F", np.uint8),
        (np.diag([-1.0, 1, 2, 1]), "C", np.int16),
        (np.array([[0, 0, 1.0, 0], [-1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 0, 1]]), "F", np.float32),
    ],
)
def test_counts_are_those_of_scipy(affine, order, kind) -> None:
    random = np.random.default_rng(1)
    noise = ndimage.gaussian_filter(random.normal(size=(22, 18, 26)), 0.9)
    label = np.where(noise > 0.32, 1, np.where(noise < -0.34, 300 if kind is np.int16 else 7, 0))
    native = Image(np.asarray(label.astype(kind), order=order), affine)
    turned = to_ras(native.array, orientation_of(affine)).astype(int)
    start, stop = (2, 0, 3), tuple(n - 1 for n in turned.shape)
    shape = tuple(max(1, round((b - a) * 0.45)) for a, b in zip(start, stop, strict=True))
    geometry = geometry_of(native, start, stop, shape)
    prepared = prepare_label(native, geometry)
    wanted = expected(turned, prepared.astype(int), start, stop)
    assert all(0 < lost < count for *_, count, lost in wanted.values())  # the example is not trivial
    found = losses_of(native, prepared, geometry)
    assert {
        value: (loss.voxels, loss.in_crop, loss.kept, loss.components, loss.components_lost)
        for value, loss in found.items()
    } == wanted


def test_components_are_those_of_scipy() -> None:
    label = np.random.default_rng(2).integers(0, 9, (20, 21, 22)).astype(np.uint8)
    wanted = np.array([False, True, False, True])
    counts = count_components(label, wanted, int(np.isin(label, (1, 3)).sum()))
    assert counts.tolist() == [
        0,
        *(ndimage.label(label == v, CORNERS)[1] if wanted[v] else 0 for v in (1, 2, 3)),
    ]


def test_where_nothing_changes_nothing_is_measured() -> None:
    native = Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    geometry = geometry_of(native, (0, 0, 0), (4, 4, 4), (4, 4, 4))
    assert losses_of(native, prepare_label(native, geometry), geometry) == {}


def test_a_crop_is_measured_even_if_resampling_restores_the_shape() -> None:
    """By hand: the half with label 1 is cut off, the other half is doubled."""
    label = np.full((8, 4, 4), 2, np.uint8)
    label[4:] = 1
    native = Image(label, np.eye(4))
    geometry = geometry_of(native, (0, 0, 0), (4, 4, 4), (8, 4, 4))
    found = losses_of(native, prepare_label(native, geometry), geometry)
    assert {value: (loss.in_crop, loss.kept) for value, loss in found.items()} == {"1": (0, 0), "2": (64, 64)}


def vessels(folder, spacing=0.5):
    """Cases a and b: an organ; in b also a vessel of 30 voxels in a row, and a lesion of one voxel."""
    affine = np.diag([spacing, spacing, spacing, 1])
    for case in "ab":
        label = np.zeros((40, 30, 30), np.uint8)
        label[4:20, 4:20, 4:20] = 1
        if case == "b":
            label[5:35, 25, 25], label[30, 10, 10] = 2, 3
        image = np.random.default_rng(0 if case == "a" else 1).normal(100, 5, label.shape).astype(np.int16)
        write_image(folder / "images" / f"{case}.nii.gz", image, Image(image, affine))
        write_image(folder / "labels" / f"{case}.nii.gz", label, Image(label, affine))
    (folder / "cases.csv").write_text(
        "case,image,label\n" + "".join(f"{case},images/{case}.nii.gz,labels/{case}.nii.gz\n" for case in "ab")
    )
    (folder / "cases.json").write_text('{"labels": {"background": 0, "organ": 1, "vessel": 2, "lesion": 3}}')
    return convert(folder / "cases.csv")


def test_a_thin_vessel_and_a_small_lesion_that_vanish_are_told(tmp_path) -> None:
    raw = vessels(tmp_path / "raw")
    summary = prepare(raw, tmp_path / "out", spacing="1,1,1", workers=1)
    (line,) = [line for line in summary.warnings if "preparation loses" in line]
    assert (
        "more than half of a label in 1 of 2 cases: b lesion (1 of 1 voxels), b vessel (30 of 30 voxels)"
        in line
    )
    assert line.endswith("use a finer --spacing, e.g. 0.5,0.5,0.5, or keep.")
    _, rows = read_csv(tmp_path / "out" / "qc" / "losses.csv")
    by_label = {(row["case"], row["label"]): row for row in rows}
    assert len(rows) == 4 and by_label["b", "vessel"]["voxels_kept"] == "0"
    assert (by_label["b", "lesion"]["components"], by_label["b", "lesion"]["components_lost"]) == ("1", "1")
    assert float(by_label["a", "organ"]["kept"]) == 1.0  # its faces lie between voxels of 1 mm
    assert "qc/losses.csv" in (tmp_path / "out" / ".mambamed-files").read_text()
    again = prepare(raw, tmp_path / "out", spacing="1,1,1", workers=1)  # all cases are kept
    assert line in again.warnings
    fine = prepare(raw, tmp_path / "fine", spacing="keep", workers=1, qc=False)
    assert not any("preparation loses" in each for each in fine.warnings)
    assert not (tmp_path / "fine" / "qc").exists()
    prepare(raw, tmp_path / "same", spacing="keep", workers=1)
    _, rows = read_csv(tmp_path / "same" / "qc" / "losses.csv")
    assert [row["voxels_kept"] for row in rows] == ["4096", "4096", "30", "1"]


def test_a_label_outside_the_crop_is_told_with_its_own_way_out(tmp_path) -> None:
    image = np.zeros((20, 20, 20), np.int16)
    image[:10] = np.random.default_rng(0).integers(50, 90, (10, 20, 20))
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:4, 5:8, 5:8], label[15:18, 5:8, 5:8] = 1, 2
    for name, array in (("a", image), ("m", label)):
        write_image(tmp_path / f"{name}.nii.gz", array, Image(array, np.eye(4)))
    (tmp_path / "cases.csv").write_text("case,image,label\na,a.nii.gz,m.nii.gz\n")
    summary = prepare(convert(tmp_path / "cases.csv"), tmp_path / "out", workers=1)
    (line,) = [line for line in summary.warnings if "preparation loses" in line]
    assert "a label_2 (27 of 27 voxels)" in line and line.endswith("set preprocess.crop to none.")
    assert math.isclose(float(read_csv(tmp_path / "out" / "qc" / "losses.csv")[1][0]["kept"]), 1)
