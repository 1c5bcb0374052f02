"""Patches for `benchmarks/train.py`: both sides read the same voxels, each from its own store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from training_nnunet import use_folder

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest, Sampler
from mambamed.preparation.store import Box, PreparedDataset
from mambamed.recipe import Augment
from mambamed.run.device import keep_freed_memory

Triple = tuple[int, int, int]
STORED = 60  # cases of a dataset that are used
SAMPLES, LARGE_SAMPLES = 60, 8  # patches whose mean and spread are compared
CASES = 2  # of the made-up dataset


def made_up_brats(folder: Path, prepare: Callable[[Path, Path], Path]) -> Path:
    """Two cases of four channels of 240x240x155, smooth tissue in a ball, three labels; prepared."""
    source = folder / "source"
    if not (source / "dataset.json").is_file():
        rng = np.random.default_rng(0)
        shape = (240, 240, 155)
        grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
        distance = np.sqrt(sum(axis**2 for axis in grid))
        for part in ("imagesTr", "labelsTr"):
            (source / part).mkdir(parents=True, exist_ok=True)
        for case in range(CASES):
            coarse = rng.normal(size=(4, *(n // 8 + 1 for n in shape)))
            tissue = [scipy.ndimage.zoom(c, 8, order=1)[tuple(map(slice, shape))] for c in coarse]
            noise = rng.normal(0, 30, (4, *shape))
            image = np.where(distance < 0.8, 500 + 150 * np.array(tissue) + noise, 0)
            label = np.select([distance < 0.1, distance < 0.2, distance < 0.3], [3, 2, 1]).astype(np.uint8)
            stacked = np.moveaxis(np.clip(np.rint(image), 0, 2000).astype(np.int16), 0, -1)
            for part, array in (("imagesTr", stacked), ("labelsTr", label)):
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), source / part / f"case_{case}.nii.gz")
        document = {
            "name": "MadeUp",
            "modality": {str(k): name for k, name in enumerate(("FLAIR", "T1w", "t1gd", "T2w"))},
            "labels": {"0": "background", "1": "edema", "2": "core", "3": "enhancing"},
            "training": [
                {"image": f"./imagesTr/case_{k}.nii.gz", "label": f"./labelsTr/case_{k}.nii.gz"}
                for k in range(CASES)
            ],
        }
        (source / "dataset.json").write_text(json.dumps(document))
    return prepare(source, folder / "prepared")


def nnunet_store(prepared: Path, patch_size: Triple) -> Path:
    """The first cases of a prepared dataset as nnU-Net 2 stores them, the very same voxels in float32."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder = prepared.with_name(f"{prepared.name}_as_nnunet")
    if (folder / "done").is_file():
        return folder
    folder.mkdir(exist_ok=True)
    dataset = PreparedDataset.open(prepared)
    for case_id in sorted(dataset.case_ids)[:STORED]:
        case = dataset.case(case_id)
        image = np.ascontiguousarray(case.image(), np.float32)
        blocks, chunks = comp_blosc2_params(image.shape, patch_size, image.itemsize)
        rows = case.foreground
        places = {
            int(value): np.insert(rows[rows[:, 0] == value, 1:], 0, 0, axis=1)
            for value in np.unique(rows[:, 0])
        }
        label = np.ascontiguousarray(case.label(), np.int8)[None]
        blocks_label, chunks_label = comp_blosc2_params(label.shape, patch_size, label.itemsize)
        nnUNetDatasetBlosc2.save_case(
            image,
            label,
            {"class_locations": places},
            str(folder / case_id),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_label,
            blocks_seg=blocks_label,
        )
    (folder / "done").touch()
    return folder


# --- nnU-Net's way ------------------------------------------------------------------------------------------


def their_loader(prepared: Path, store: Path, patch_size: Triple) -> Callable[[], Any]:
    """Its loader and its training transforms; batches of one patch, as ours."""
    loader = _loader(prepared, store, patch_size, _transforms(patch_size))
    return _with_facts(lambda: np.asarray(next(loader)["data"][0]))


def their_augmentation(prepared: Path, store: Path, patch_size: Triple) -> Callable[[], Any]:
    """Its training transforms alone, on boxes that its loader would hand them, all in memory."""
    loader, transforms = _loader(prepared, store, patch_size, None), _transforms(patch_size)
    boxes = [next(loader) for _ in range(8 if patch_size[0] < 100 else 2)]
    turn = iter(range(10**9))

    def work() -> NDArray:
        box = boxes[next(turn) % len(boxes)]
        return np.asarray(
            transforms(image=box["data"][0].clone(), segmentation=box["target"][0].clone())["image"]
        )

    return _with_facts(work)


def _transforms(patch_size: Triple) -> Any:
    """The transforms of its trainer for the whole data augmentation, without targets of deep supervision."""
    use_folder(Path())
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    rotation = (-np.pi / 6, np.pi / 6)
    return nnUNetTrainer.get_training_transforms(patch_size, rotation, None, (0, 1, 2), False, [False] * 4)


def _loader(prepared: Path, store: Path, patch_size: Triple, transforms: Any) -> Any:
    """As its trainer's `get_dataloaders` makes it: the box read is larger by what rotation may need."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    np.random.seed(0)
    torch.manual_seed(0)
    rotation = (-np.pi / 6, np.pi / 6)
    larger = get_patch_size(patch_size, rotation, rotation, rotation, (0.85, 1.25))
    labels = LabelManager(dict(PreparedDataset.open(prepared).manifest.labels), None)
    return nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(store)),
        1,
        larger,
        patch_size,
        labels,
        0.33,
        None,
        None,
        transforms=transforms,
    )


# --- ours ---------------------------------------------------------------------------------------------------


def our_loader(prepared: Path, patch_size: Triple) -> Callable[[], Any]:
    """Our sampler and reader as a training has them: a dataset that is small stays in memory once read."""
    return _patches(prepared, patch_size, kept=True)


def our_disk_loader(prepared: Path, patch_size: Triple) -> Callable[[], Any]:
    """The same, but every patch from the disk."""
    return _patches(prepared, patch_size, kept=False)


def our_augmentation(prepared: Path, patch_size: Triple) -> Callable[[], Any]:
    """Our reader on boxes in memory, as large as nnU-Net's."""
    return _patches(prepared, patch_size, kept=True, boxes=True)


class _Box:
    """A piece of a case in memory, with room for rotation around the patch."""

    def __init__(self, image: NDArray[np.float32], label: NDArray) -> None:
        self._image, self._label, self.shape = image, label, label.shape
        self.foreground = np.zeros((0, 4), np.int16)

    def image(self, box: Box | None = None) -> NDArray[np.float32]:
        return self._image if box is None else self._image[(..., *map(slice, *box))]

    def label(self, box: Box | None = None) -> NDArray:
        return self._label if box is None else self._label[tuple(map(slice, *box))]


def _patches(prepared: Path, patch_size: Triple, kept: bool, boxes: bool = False) -> Callable[[], Any]:
    keep_freed_memory()
    dataset = PreparedDataset.open(prepared)
    cases: dict[str, Any] = {case_id: dataset.case(case_id) for case_id in sorted(dataset.case_ids)[:STORED]}
    for case in cases.values():
        case._in_memory = kept
    sampler = Sampler(cases, patch_size, 1, 0.33, (0, 0))
    augment = Augment()
    steps = iter(range(10**9))
    reader = PatchReader(cases, patch_size, augment, (1.0, 1.0, 1.0))
    if not boxes:
        return _with_facts(lambda: reader.batch(sampler.requests(next(steps))).image[0].numpy())
    # Boxes of patches that are drawn as in training, with a margin for rotation, zero outside of the case.
    margin = tuple(n // 2 for n in patch_size)
    pieces = {}
    for number in range(8 if patch_size[0] < 100 else 2):
        (request,) = sampler.requests(number)
        case = cases[request.case_id]
        low = np.array(request.start) - margin
        high = low + patch_size + 2 * np.array(margin)
        wide = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(low, high, case.shape, strict=True)]
        box = (tuple(np.maximum(low, 0)), tuple(np.minimum(high, case.shape)))
        image = np.pad(case.image(box).astype(np.float32), [(0, 0), *wide])
        pieces[str(number)] = _Box(image, np.pad(case.label(box), wide))
    reader = PatchReader(pieces, patch_size, augment, (1.0, 1.0, 1.0))

    def work() -> NDArray:
        number = next(steps)
        request = PatchRequest(str(number % len(pieces)), margin, (0, 0, number))  # type: ignore[arg-type]
        return reader.read(request)[0]

    return _with_facts(work)


def _with_facts(work: Callable[[], NDArray]) -> Callable[[], Any]:
    """The work, and what its patches are like, for `agreement`."""
    first = work()
    count = LARGE_SAMPLES if first.shape[-1] > 100 else SAMPLES
    found = [first, *(work() for _ in range(count - 1))]
    statistics = [(float(patch.mean()), float(patch.std())) for patch in found]
    mean = np.median(np.array(statistics), axis=0)

    def again() -> None:
        work()

    again.facts = {"shape": tuple(found[0].shape), "mean_std": mean.tolist()}  # type: ignore[attr-defined]
    return again
