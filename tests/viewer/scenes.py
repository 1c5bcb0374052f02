"""What the tests look at: small evaluations, made by mambamed itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from mambamed.evaluation.masks import evaluate
from mambamed.io.images import Image, write_image
from mambamed.io.lock import folder_lock
from mambamed.io.tables import write_csv
from mambamed.viewer import Answers, Server, Subject, open_subject
from mambamed.viewer.notes import Notes
from tests.answers.stubs import stub_run

LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
SHAPE = (20, 24, 18)
# Rotated by 20 degrees about z and sheared by nothing; stored towards the left and anterior.
_COS, _SIN = np.cos(np.radians(20)), np.sin(np.radians(20))
OBLIQUE = np.array(
    [[-2 * _COS, -1.5 * _SIN, 0, 31.0], [-2 * _SIN, 1.5 * _COS, 0, -12.5], [0, 0, 3.0, 7.25], [0, 0, 0, 1]]
)


def head(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid with noise, and in it the nested labels 2, 1 and 3."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), axis=-1)
    inside = (grid**2).sum(-1) < 0.8
    from_tumor = np.sqrt(((grid - rng.uniform(-0.3, 0.3, 3)) ** 2).sum(-1))
    label = np.select([from_tumor < 0.15, from_tumor < 0.25, from_tumor < 0.4], [3, 1, 2], 0)
    image = np.where(inside, 400 + 150 * label + rng.normal(0, 20, shape), 0)
    return np.rint(image).astype(np.int16), label.astype(np.uint8)


def write_heads(folder: Path, count: int) -> list[Path]:
    """Cases with four channels and a label map, in the layout of BraTS 2023."""
    cases = []
    for seed in range(count):
        case = folder / f"HEAD-{seed:04d}"
        case.mkdir(parents=True)
        image, label = head(seed, (32, 40, 32))
        for suffix in ("t1n", "t1c", "t2w", "t2f", "seg"):
            volume = Image(label if suffix == "seg" else image, np.diag([4.0, 4.0, 4.0, 1.0]))
            write_image(case / f"{case.name}-{suffix}.nii.gz", volume.array, like=volume)
        cases.append(case)
    return cases


def mask_evaluation(folder: Path, count: int = 2) -> Path:
    """An evaluation of shifted masks in `folder/data`; the last case has no prediction."""
    data, predictions = folder / "data", folder / "predictions"
    predictions.mkdir(parents=True)
    for case in write_heads(data, count + 1)[:count]:
        label = nib.load(case / f"{case.name}-seg.nii.gz")
        shifted = np.roll(np.asarray(label.dataobj), 2, axis=0)
        write_image(predictions / f"{case.name}.nii.gz", shifted, like=Image(shifted, label.affine))
    evaluate(
        predictions, data, labels=LABELS, regions={"WT": (1, 2, 3), "ET": (3,)}, metrics=["dice"],
        output=folder / "evaluation", report=True, worst=0,
    )  # fmt: skip
    return folder / "evaluation"


@contextmanager
def run_in_training(folder: Path) -> Iterator[Path]:
    """A run whose fold 0 has trained 3 of 5 epochs, 10 s each, under a limit of time."""
    run = stub_run(folder)
    fold = run.fold_folder(0)
    epochs = [[epoch, 1 / epoch, 1 / epoch, 0.1 * epoch, 0.2 * epoch, 1e-3, 10.0] for epoch in (1, 2, 3)]
    headers = ["epoch", "loss", "validation_loss", "dice", "dice_one", "learning_rate", "seconds"]
    write_csv(fold / "log.csv", headers, epochs)
    run.record(0, {"steps": 5 * run.recipe.training.steps_per_epoch})
    with folder_lock(fold):
        yield folder


def oblique_case(folder: Path) -> tuple[Path, Path]:
    """An image with an oblique affine, and a mask on its grid."""
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True, exist_ok=True)
    image, mask = folder / "oblique.nii.gz", folder / "mask.nii.gz"
    values = rng.integers(-300, 900, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(values, OBLIQUE), image)
    label = np.zeros(SHAPE, np.uint8)
    label[5:12, 6:15, 4:9], label[8:10, 8:10, 5:8] = 1, 2
    nib.save(nib.Nifti1Image(label, OBLIQUE), mask)
    return image, mask


def world_points(count: int, affine: np.ndarray = OBLIQUE, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """`(count, 3)` world positions near voxel centers of an image."""
    rng = np.random.default_rng(5)
    voxels = rng.integers(0, shape, (count, 3)) + rng.uniform(-0.4, 0.4, (count, 3))
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def nibabel_value(path: Path, point: np.ndarray) -> float:
    """The value of the voxel that holds a world point."""
    image = nib.load(path)
    voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), point)).astype(int)
    return float(np.asarray(image.dataobj)[tuple(voxel)])


def tiny_image(path: Path, shape: tuple[int, int, int] = (16, 20, 14)) -> Path:
    """A small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume, _ = head(1, shape)
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    write_image(path, volume, like=Image(volume, affine))
    return path


@contextmanager
def served(shown: Subject, notes: Path | None = None) -> Iterator[Server]:
    """A server of a subject, in a thread."""
    with Server(Answers(shown, Notes(notes) if notes else None)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def viewed(*places: Path, images: Path | None = None, references: Path | None = None) -> Iterator[Server]:
    """A server of what lies at a path."""
    with served(open_subject(places, images, references)) as server:
        yield server
