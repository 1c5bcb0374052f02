"""Real label maps to the prepared grid and back to the file's, through the step that `predict` ends with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, Unchanged
from mambamed.io.images import read_image
from mambamed.preparation.prepare_image import prepare_image, prepare_label
from mambamed.preparation.store_case import reference_labels
from mambamed.recipe import Recipe
from mambamed.tasks.base import task_for
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.restore import native_labels
from tests.real_data import DATA

pytestmark = pytest.mark.data


def files(name: str) -> list[tuple[Path, Path]]:
    """(image, label) of some cases; skips where they are not there."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; see MAMBAMED_TEST_DATA")
    if name == "Task04_Hippocampus":
        images = sorted((folder / "imagesTr").glob("hippocampus_*.nii.gz"))[::13]
        return [(path, folder / "labelsTr" / path.name) for path in images]
    if name == "ct_organs":
        return [(folder / "example_ct_sm.nii.gz", folder / "example_seg.nii.gz")]
    case = sorted((folder / "training").iterdir())[0]
    return [(next(case.glob("*-t1n.nii.gz")), next(case.glob("*-seg.nii.gz")))]


def there_and_back(image_path: Path, label_path: Path, spacing) -> tuple[np.ndarray, np.ndarray]:
    """The native label map, and what comes back of it, on the image's grid."""
    image, label = read_image(image_path), read_image(label_path)
    keep = spacing is None
    plan = Plan(
        spacing_mm=spacing or (1, 1, 1),
        shape_median=(1, 1, 1),
        patch_size=(1, 1, 1),
        batch_size=1,
        crop="nonzero",
        normalization=(Unchanged(),),
        keep_spacing=keep,
    )
    _, geometry = prepare_image([image], plan)
    native, prepared = reference_labels(label, geometry), prepare_label(label, geometry)
    values = [int(v) for v in np.unique(native)]
    manifest = DatasetManifest(
        name="x", channels={"x": "mri"}, labels={"background": 0} | {f"l{v}": v for v in values if v}
    )
    task = task_for(Recipe.model_validate({"network": {"name": "nnmamba"}}), manifest)
    assert isinstance(task, Segmentation)
    answer = torch.from_numpy(np.stack([prepared == v for v in values]).astype(np.float32))
    return native, native_labels(answer, geometry, task)


@pytest.mark.parametrize("name", ["Task04_Hippocampus", "ct_organs", "brats_tcia"])
def test_labels_come_back_exactly_where_the_spacing_is_kept(name) -> None:
    for image, label in files(name):
        native, back = there_and_back(image, label, None)
        np.testing.assert_array_equal(native, back)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("Task04_Hippocampus", (1.0, 1.0, 1.0)),
        ("ct_organs", (3.0, 3.0, 3.0)),
        ("brats_tcia", (1.0, 1.0, 1.0)),
    ],
)
def test_labels_come_back_at_the_original_spacing(name, spacing) -> None:
    """A plan in numbers, which rounds the shape where the file's spacing is not quite that."""
    for image, label in files(name):
        native, back = there_and_back(image, label, spacing)
        inside = native > 0
        assert (back[inside] == native[inside]).mean() >= 0.995


def test_organs_survive_a_finer_grid() -> None:
    """3 mm to 1.5 mm and back: each organ of a whole-body CT, 41 labels and thin ribs among them."""
    for image, label in files("ct_organs"):
        native, back = there_and_back(image, label, (1.5, 1.5, 1.5))
        inside = native > 0
        assert (back[inside] == native[inside]).mean() >= 0.995
